"""The one error that is the user's to mend."""


class DecomposeError(ValueError):
    """Bad input: one line that names the thing and says what to do about it.

    The command line prints it and exits with code 2. A mistake of our own is an
    ``AssertionError`` or whatever Python raises, and keeps its traceback.
    """
