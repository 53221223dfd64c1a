"""One folder a paper or question; each is run with ``python -m experiments.NAME.run``."""
