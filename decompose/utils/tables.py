"""Show tables on the screen, in Markdown and as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    import rich.table


@dataclass(frozen=True)
class Table:
    """Text in rows and columns. The first column is a label, the others align to the right.

    Attributes:
        title: one line above.
        columns: headings; a line break in one keeps its column narrow on the screen.
        rows: cells, as many in each row as there are columns.
        total: the last row, set apart, if there is one.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: Sequence[str] | None = None

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown, its columns padded to equal widths."""
        headings = [heading.replace("\n", " ") for heading in self.columns]
        body = [*self.rows, *([self.total] if self.total else [])]
        widths = [max(map(len, column)) for column in zip(headings, *body, strict=True)]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = [_pad(row, widths) for row in (headings, rule, *body)]
        return f"**{self.title}**\n\n" + "\n".join(lines) + "\n"

    def __str__(self) -> str:
        return self.to_markdown()

    def __rich__(self) -> rich.table.Table:
        import rich.box
        import rich.table

        table = rich.table.Table(
            title=self.title,
            title_justify="left",
            box=rich.box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            show_footer=self.total is not None,
        )
        footer = self.total or [""] * len(self.columns)
        for index, (heading, text) in enumerate(zip(self.columns, footer, strict=True)):
            table.add_column(
                heading, text, justify="right" if index else "left", vertical="bottom", no_wrap=True
            )
        for row in self.rows:
            table.add_row(*row)
        return table


def format_count(count: float) -> str:
    """Format a count with at least three significant digits, without a power: 15,347, 86.7, 0.0432."""
    # A decimal is written without a power.
    return f"{count:,.0f}" if count >= 100 else f"{Decimal(f'{count:.3g}'):f}"


def format_threads(count: int) -> str:
    """Format a number of threads: 1 thread, 2 threads."""
    return f"{count} thread{'' if count == 1 else 's'}"


def _pad(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.rjust(width) if index else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return f"| {' | '.join(cells)} |"


def show_table(table: Table) -> None:
    """Print a table."""
    console = Console()
    # A number that is cut off is worse than a line that wraps.
    needed = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, needed)
    console.print(table)
