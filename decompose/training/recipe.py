"""The settings of finetuning, checked before anything is computed.

The options of ``decompose finetune`` are made from these fields, and their help from the text beside each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_doc import Doc

from decompose.utils.errors import DecomposeError

OPTIMISERS = "sgd", "adamw"
PRECISIONS = "no", "fp16", "bf16"
"""Accelerate's names of precisions; ``no`` keeps the weights' own."""

_LEARNING_RATES = {"sgd": 0.01, "adamw": 1e-4}


@dataclass(frozen=True)
class Recipe:
    """The settings of finetuning.

    ``sgd`` has Nesterov momentum 0.9. The learning rate rises linearly, then falls along a cosine. With
    ``adamw``, the decay of the kernels that factors compose to stays part of the loss. Without a teacher
    the weight of ``labels`` is 1.

    Example:
        >>> Recipe(optimiser="adamw").peak
        0.0001

    Raises:
        DecomposeError: a setting is out of bounds.
    """

    epochs: Annotated[int, Doc("Passes over the images.")] = 3
    batch_size: Annotated[int, Doc("Images of a step, of all processes together.")] = 32
    optimiser: Annotated[str, Doc(f"One of: {', '.join(OPTIMISERS)}.")] = "sgd"
    learning_rate: Annotated[
        float | None, Doc("Highest learning rate. Default: 0.01 with sgd, 0.0001 with adamw.")
    ] = None
    warmup: Annotated[float, Doc("Share of the steps in which the learning rate rises.")] = 0.05
    weight_decay: Annotated[
        float, Doc("Decay of dense weights, and of the kernels that factors compose to.")
    ] = 1e-4
    labels: Annotated[float, Doc("Weight of the cross-entropy with the labels.")] = 0.5
    outputs: Annotated[float, Doc("Weight of the distance from the original's outputs.")] = 0.5
    features: Annotated[
        float | None,
        Doc(
            "Weight of the distance from the original's layers. Default: 0; without labels 1, but of an "
            "ONNX teacher 0."
        ),
    ] = None
    temperature: Annotated[
        float, Doc("Temperature that softens class scores in the comparison of outputs.")
    ] = 2.0
    smoothing: Annotated[float, Doc("Label smoothing.")] = 0.0
    mixup: Annotated[
        float, Doc("Alpha of mixup, which mixes images in pairs: 1 for all shares; 0 for none.")
    ] = 0.0
    freeze_batchnorm: Annotated[
        bool, Doc("Keep the means and variances of BatchNorms as they are.")
    ] = False
    compose_factors: Annotated[
        bool,
        Doc(
            "Train through the dense kernels that factors compose to: the same gradients, faster where "
            "layers are narrow."
        ),
    ] = False
    blockwise: Annotated[
        int, Doc("Steps of each layer in a first stage without labels; 200 are many.")
    ] = 0
    accumulate: Annotated[
        int, Doc("Micro-batches whose gradients a process accumulates in a step.")
    ] = 1
    clip: Annotated[float | None, Doc("Largest norm of a step's gradient; 0 for no limit.")] = 5.0
    precision: Annotated[
        str | None,
        Doc(f"Mixed precision, of: {', '.join(PRECISIONS)}. Default: as accelerate launch says."),
    ] = None
    holdout: Annotated[float, Doc("Share of the images to validate on, of all classes alike.")] = (
        0.1
    )
    patience: Annotated[int | None, Doc("Stop after this many epochs without a better score.")] = (
        None
    )
    seed: Annotated[int, Doc("Seed of all random draws.")] = 0
    workers: Annotated[
        int, Doc("Number of processes that decode, for each process that trains.")
    ] = 0
    seconds_between: Annotated[float, Doc("Seconds between checkpoints within an epoch.")] = 300.0

    def __post_init__(self) -> None:
        for name, choices in (("optimiser", OPTIMISERS), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise DecomposeError(f"{name} {value!r}: choose of {', '.join(choices)}")
        for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise DecomposeError(f"{name} {value}: must be {least} or more")
        for name in (
            "weight_decay",
            "labels",
            "outputs",
            "features",
            "mixup",
            "blockwise",
            "workers",
            "clip",
        ):
            if (value := getattr(self, name)) is not None and not value >= 0:
                raise DecomposeError(f"{name} {value}: must not be negative")
        for name in ("learning_rate", "temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise DecomposeError(f"{name} {value}: must be positive")
        for name in ("warmup", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise DecomposeError(f"{name} {getattr(self, name)}: must lie in [0, 1)")
        if not 0 < self.holdout < 1:
            raise DecomposeError(f"holdout {self.holdout}: must lie between 0 and 1")

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        given = self.learning_rate
        return _LEARNING_RATES[self.optimiser] if given is None else given
