"""Patterns of layers' names."""

import pytest

from decompose.utils.errors import DecomposeError
from decompose.utils.name_patterns import last_match, matches, require_match


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("layer1.0.conv1", True),
        ("layer1", True),
        ("layer1.0", True),
        ("layer*.conv1", True),
        ("*", True),
        ("layer", False),
        ("layer1.0.conv", False),
        ("conv1", False),
    ],
)
def test_names_modules_and_patterns(pattern: str, fits: bool) -> None:
    assert matches("layer1.0.conv1", pattern) is fits


def test_the_last_pattern_counts() -> None:
    assert last_match({"conv*": 1, "conv2": 2}, "conv2") == 2
    assert last_match({"conv2": 2, "conv*": 1}, "conv2") == 1
    assert last_match({"conv2": 2}, "conv3") is None


def test_a_pattern_for_nothing_is_refused() -> None:
    require_match(["a", "b"], "b")
    with pytest.raises(DecomposeError, match="c: no layer has that name; there are: a, b"):
        require_match(["a", "b"], "c")
