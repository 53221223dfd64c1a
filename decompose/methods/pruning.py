"""Channel pruning as a choice of a plan: which channels a layer still reads, and who writes no others.

The indices are written as ranges, ``0-3,5``, as they are in a plan's JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from decompose.algebra import Conv, keep_inputs
from decompose.utils.errors import DecomposeError

PRUNE = "prune"
"""The method of a choice that leaves out input channels; the rank is the number of those that stay."""


@dataclass(frozen=True)
class PrunedChannels:
    """Input channels that a layer keeps, and the modules that write no others.

    Attributes:
        kept: their indices, rising.
        num_channels: number of the original's.
        writers: full names of the convolutions and normalisations before the layer that lose the others.

    Examples:
        >>> PrunedChannels((0, 1, 2, 5), 8, ("conv1", "bn1")).to_dict()
        {'kept': '0-2,5', 'of': 8, 'writers': ['conv1', 'bn1']}
    """

    kept: tuple[int, ...]
    num_channels: int
    writers: tuple[str, ...]

    def is_done(self, conv: Conv) -> bool:
        """Whether a layer has no other channels any more."""
        return conv.in_channels == len(self.kept)

    def of(self, conv: Conv) -> Conv:
        """A layer with the channels that stay.

        Raises:
            DecomposeError: it has no such channels, or groups.
        """
        if self.is_done(conv):
            return conv
        if conv.in_channels != self.num_channels:
            raise DecomposeError(
                f"it has {conv.in_channels} input channels, not {self.num_channels}"
            )
        try:
            return keep_inputs(conv, torch.tensor(self.kept))
        except ValueError as error:
            raise DecomposeError(str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Convert to a dictionary for JSON."""
        kept = ",".join(_ranges(self.kept))
        return {"kept": kept, "of": self.num_channels, "writers": list(self.writers)}

    @classmethod
    def from_dict(cls, record: Any) -> PrunedChannels:
        """Read from a dictionary of JSON.

        Raises:
            DecomposeError: it names no channels, or no modules that write them.
        """
        kept, number, writers = (record.get(key) for key in ("kept", "of", "writers"))
        if not isinstance(kept, str):
            raise DecomposeError('"kept" must name channels, such as "0-3,5"')
        if not isinstance(writers, list) or not all(isinstance(name, str) for name in writers):
            raise DecomposeError('"writers" must be a list of names of modules')
        indices = tuple(_indices(kept))
        if type(number) is not int or number <= indices[-1]:
            raise DecomposeError(
                f'"of" must be the number of all channels, more than {indices[-1]}'
            )
        return cls(indices, number, tuple(writers))


def _ranges(indices: Sequence[int]) -> Iterator[str]:
    """Neighbouring indices together, ``0-3``."""
    start = 0
    for i, index in enumerate(indices):
        if i + 1 == len(indices) or indices[i + 1] != index + 1:
            first = indices[start]
            yield str(first) if first == index else f"{first}-{index}"
            start = i + 1


def _indices(text: str) -> list[int]:
    """The indices that ranges stand for.

    Raises:
        DecomposeError: the text is no rising ranges of numbers.
    """
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        ends = first, last or first
        if not all(end.isascii() and end.isdigit() and len(end) < 9 for end in ends):
            raise DecomposeError(f'"kept": {part!r} is no channel and no range of channels')
        begin, end = map(int, ends)
        if begin > end or (found and begin <= found[-1]):
            raise DecomposeError(f'"kept": {part!r} does not rise')
        if end - begin >= 1 << 20:
            raise DecomposeError(f'"kept": {part!r} has more channels than a layer')
        found += range(begin, end + 1)
    return found
