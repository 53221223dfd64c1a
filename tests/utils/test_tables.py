"""Tables in Markdown and on the screen."""

import pytest
from rich.console import Console

from decompose.utils.tables import Table, format_count
from experiments.common.records import format_spread

TABLE = Table("Title", ["layer", "k\nparams"], [["conv1", "1.79"]], ["network", "14,715"])


def test_markdown_is_aligned() -> None:
    assert TABLE.to_markdown() == (
        "**Title**\n\n"
        "| layer   | k params |\n"
        "| ------- | -------: |\n"
        "| conv1   |     1.79 |\n"
        "| network |   14,715 |\n"
    )


def test_the_screen_shows_the_same_cells() -> None:
    console = Console(width=60)
    with console.capture() as capture:
        console.print(TABLE)
    for cell in ("Title", "layer", "params", "conv1", "1.79", "network", "14,715"):
        assert cell in capture.get()


@pytest.mark.parametrize(
    ("count", "text"),
    [(15346.6, "15,347"), (86.7, "86.7"), (1.792, "1.79"), (0.04321, "0.0432"), (0, "0")],
)
def test_counts_keep_three_digits(count: float, text: str) -> None:
    assert format_count(count) == text


def test_no_count_is_written_as_a_power() -> None:
    counts = (0, 9.6e-05, 1.234e-5, 1e-7, 99.96)
    assert [*map(format_count, counts)] == ["0", "0.000096", "0.0000123", "0.0000001", "100"]


def test_spreads_show_mean_and_standard_deviation() -> None:
    assert format_spread([91.0, 92.0, 93.0]) == "92.0 ± 1.0"
    assert format_spread([0.5, 0.7], "+") == "+0.6 ± 0.1"
