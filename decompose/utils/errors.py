"""The error of bad input, and one-line messages from other libraries' errors."""

import re
from collections.abc import Mapping


class DecomposeError(ValueError):
    """Bad input: one line that names the thing and says what to do about it.

    The command line prints it and exits with code 2. A mistake of our own is an
    ``AssertionError`` or whatever Python raises, and keeps its traceback.

    Examples:
        >>> import decompose
        >>> try:
        ...     decompose.load("small.pth")
        ... except decompose.DecomposeError as error:
        ...     print(error)
        small.pth: no such file

    Args:
        message: names in it may be anybody's; what would break the line or steer a terminal is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.splitlines())))


class BudgetError(DecomposeError):
    """No plan meets a budget; the message gives the least budget that one meets."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the error's class where the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def reason(error: Exception) -> str:
    """Why a file cannot be read or written, without its name."""
    return getattr(error, "strerror", None) or first_line(error)


def without_name(error: DecomposeError, path: object) -> str:
    """The message of an error about a file, without the file's name before it.

    >>> without_name(DecomposeError("a.png: is no image"), "a.png")
    'is no image'
    """
    return str(error).removeprefix(str(DecomposeError(f"{path}: ")))


def none_read(unreadable: Mapping[str, str]) -> DecomposeError:
    """The error where no image could be read; it names the first.

    Args:
        unreadable: the images, by path, with the reason.

    >>> print(none_read({"a.png": "is no image"}))
    no image could be read; the first is a.png: is no image
    """
    path, why = next(iter(unreadable.items()), ("the data", "it holds none"))
    return DecomposeError(f"no image could be read; the first is {path}: {why}")


def printable(text: str) -> str:
    r"""Escape untrusted text so that a terminal shows it in one line as it is.

    >>> print(printable("a\x1b[31mb"))
    a\x1b[31mb
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def refusal(error: Exception) -> str:
    """One line on why another library's function refuses the options that a user gave."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return f"there is no option {unknown[1]!r}" if unknown else first_line(error)
