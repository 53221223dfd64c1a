"""How a network is finetuned: every setting in one place, checked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from decompose.utils.errors import DecomposeError

OPTIMISERS = "sgd", "adamw"
PRECISIONS = "no", "fp16", "bf16"
"""As Accelerate calls them; ``no`` is that of the weights."""

_LEARNING_RATES = {"sgd": 0.01, "adamw": 1e-4}


@dataclass(frozen=True)
class Recipe:
    """The settings.

    Attributes:
        epochs: passes over the pictures.
        batch_size: pictures a step, of all processes together.
        optimiser: ``sgd`` (momentum 0.9, Nesterov) or ``adamw``.
        learning_rate: at its highest; ``None`` takes the optimiser's: 0.01 and 0.0001.
        warmup: share of all steps in which it rises linearly, before it falls along a cosine.
        weight_decay: of weights, and of the kernels that factors compose to; biases and
            normalisations have none. With ``adamw``, the kernels' stays part of the loss.
        labels: weight of the cross-entropy with the labels; without an original it is 1.
        outputs: weight of the distance from the original's outputs.
        features: weight of the distance from the original's layers, at rewritten ones; ``None`` is 0 with
            labels and 1 without.
        temperature: that class scores are softened by before they are compared.
        smoothing: of labels.
        blockwise: steps a layer of the first stage, which needs no labels; 0 leaves it out.
        accumulate: micro-batches that a process splits its share of a batch into.
        clip: largest norm of a step's gradient; ``None`` for any.
        precision: of products, one of ``PRECISIONS``; ``None`` leaves it to ``accelerate launch``.
        holdout: share of the pictures that is held out to judge on, in (0, 1).
        patience: epochs without a better score before training stops; ``None`` goes on to the end.
        seed: of everything drawn.
        workers: processes that decode, for each process that trains.
        seconds_between: checkpoints within an epoch.

    Raises:
        DecomposeError: a setting is out of bounds.
    """

    epochs: int = 3
    batch_size: int = 32
    optimiser: str = "sgd"
    learning_rate: float | None = None
    warmup: float = 0.05
    weight_decay: float = 1e-4
    labels: float = 0.5
    outputs: float = 0.5
    features: float | None = None
    temperature: float = 2.0
    smoothing: float = 0.0
    blockwise: int = 0
    accumulate: int = 1
    clip: float | None = 5.0
    precision: str | None = None
    holdout: float = 0.1
    patience: int | None = None
    seed: int = 0
    workers: int = 0
    seconds_between: float = 300.0

    def __post_init__(self) -> None:
        for name, choices in (("optimiser", OPTIMISERS), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise DecomposeError(f"{name} {value!r}: choose of {', '.join(choices)}")
        for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise DecomposeError(f"{name} {value}: must be {least} or more")
        for name in ("weight_decay", "labels", "outputs", "features", "blockwise", "workers"):
            if (value := getattr(self, name)) is not None and not value >= 0:
                raise DecomposeError(f"{name} {value}: must not be negative")
        for name in ("learning_rate", "clip", "temperature"):
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
