"""The one error that is the user's to mend, and what to quote of others."""


class DecomposeError(ValueError):
    """Bad input: one line that names the thing and says what to do about it.

    The command line prints it and exits with code 2. A mistake of our own is an
    ``AssertionError`` or whatever Python raises, and keeps its traceback.
    """


class BudgetError(DecomposeError):
    """No plan meets a budget; the message says what the least is."""


def first_line(error: Exception) -> str:
    """The first line of what another library says, or the kind of error where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
