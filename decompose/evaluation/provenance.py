"""Record which weights were evaluated on which data, so that an evaluation can be repeated and checked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from decompose.models.preprocessing import Transform
from decompose.utils.hashing import weights_digest


@dataclass(frozen=True)
class Provenance:
    """The weights, preprocessing and data of an evaluation.

    Attributes:
        weights: SHA-256 of each model's weights.
        preprocessing: of each model, in words.
        data: SHA-256 of the images' names and labels, or of their objects.
        precision: of the models' products; ``own`` for that of their weights.
    """

    weights: Mapping[str, str]
    preprocessing: Mapping[str, str]
    data: str
    precision: str

    @classmethod
    def of(
        cls,
        models: Mapping[str, nn.Module],
        transforms: Mapping[str, Transform],
        samples: Iterable[Sequence[Any]],
        precision: torch.dtype | None,
    ) -> Provenance:
        """Gather the provenance of an evaluation.

        Args:
            models: by name.
            transforms: their preprocessing.
            samples: the images that they are evaluated on: names, and what is known of them.
            precision: of mixed precision, if any.
        """
        listing = json.dumps([list(sample) for sample in samples])
        return cls(
            {name: weights_digest(model) for name, model in models.items()},
            {name: in_words(transform) for name, transform in transforms.items()},
            hashlib.sha256(listing.encode()).hexdigest(),
            "own" if precision is None else str(precision).removeprefix("torch."),
        )

    def key(self) -> str:
        """All fields in one text."""
        return json.dumps(asdict(self), sort_keys=True)


def in_words(transform: Transform) -> str:
    """Describe a preprocessing in one line, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(transform).split()))
