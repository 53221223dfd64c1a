"""Packages that are not there are named with the extra that brings them."""

import json

import pytest

from decompose.errors import DecomposeError
from decompose.extras import required


def test_what_is_there_is_imported() -> None:
    assert required("json", "JSON", "none") is json


def test_what_is_missing_is_named() -> None:
    with pytest.raises(
        DecomposeError, match=r"^Foo is not installed: pip install 'decompose\[bar\]'$"
    ):
        required("no_such_module.inside", "Foo", "bar")
