"""The one error that is the user's to mend, and what to quote of others."""

import re


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


def reason(error: Exception) -> str:
    """Why a file that the message names already cannot be read or written."""
    return getattr(error, "strerror", None) or first_line(error)


def printable(text: str) -> str:
    r"""Text that may be anybody's, in one line that a terminal shows as it is.

    >>> print(printable("a\x1b[31mb"))
    a\x1b[31mb
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def refusal(error: Exception) -> str:
    """Why a function of another library does not take the options that a user gave it, in a line."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return f"there is no option {unknown[1]!r}" if unknown else first_line(error)
