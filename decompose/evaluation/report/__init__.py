"""A report of compressed models as one web page: ``contents``, ``spectra``, ``page``."""
