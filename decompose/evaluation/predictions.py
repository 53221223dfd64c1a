"""What networks make of pictures, one by one; all that is said of their accuracy follows from it.

Kept picture by picture, outcomes of parts of the data, of several processes or of an interrupted run add
up to exactly those of the whole, and two networks are compared on the same pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from decompose.utils.files import writing

TOP = 5
"""Classes that are kept of each picture: the highest ones."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What networks make of pictures.

    Attributes:
        places: of the pictures in the data, ``(N,)`` int64.
        labels: their classes, ``(N,)`` int64.
        guesses: the classes with the highest scores, best first, ``(networks, N, K)`` int64, with K
            of ``TOP`` or the number of classes.
        unreadable: the pictures that could not be read, by path, with the reason.
    """

    places: Tensor
    labels: Tensor
    guesses: Tensor
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """The outcomes of all parts, in the order of their places; a picture in two counts once."""
        filled = [part for part in parts if len(part.places)] or parts[:1]
        places, first = _unique(torch.cat([part.places for part in filled]))
        return cls(
            places,
            torch.cat([part.labels for part in filled])[first],
            torch.cat([part.guesses for part in filled], 1)[:, first],
            {path: why for part in parts for path, why in part.unreadable.items()},
        )

    def hits(self, k: int) -> Tensor:
        """Whether the class is among the k highest, ``(networks, N)`` bool."""
        return (self.guesses[..., :k] == self.labels.unsqueeze(1)).any(-1)

    def agreement(self, network: int) -> float:
        """Share of the pictures for which a network's first guess is the first network's."""
        return float((self.guesses[network, :, 0] == self.guesses[0, :, 0]).double().mean())

    def save(self, path: Path, key: str) -> None:
        """Write them to a file, replaced as a whole, with a key that tells what they are of."""
        tensors = {"places": self.places, "labels": self.labels, "guesses": self.guesses}
        metadata = {"key": key, "unreadable": json.dumps(dict(self.unreadable))}
        with writing(path) as temporary:
            save_file(tensors, temporary, metadata)

    @classmethod
    def load(cls, path: Path, key: str) -> Outcomes | None:
        """Read a file; ``None`` where it is damaged, or its key is another."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != key:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return cls(**tensors, unreadable=json.loads(metadata["unreadable"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None


def _unique(places: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted places without repeats, and where each stands first."""
    order = torch.argsort(places, stable=True)
    ordered = places[order]
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new], order[new]
