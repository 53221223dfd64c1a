"""Whatever a message quotes, an error is one printable line."""

import pickle

import pytest

from decompose.utils.errors import BudgetError, DecomposeError


@pytest.mark.parametrize("kind", [DecomposeError, BudgetError])
def test_a_message_is_one_printable_line(kind: type[DecomposeError]) -> None:
    error = kind("a\nb\r\nc\x1b[31m\u2028d: is no file")
    assert str(error) == "a b c\\x1b[31m d: is no file"
    # As it comes from a process that read images.
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
