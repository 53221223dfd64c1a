"""Quantise models to INT8 by the engines' quantisers, with preparation before and repair after.

Decisions are measured on held-out images: factors are equalised and a repair is kept only where that lowers
the error there, and the layers that lose most in INT8 are found there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from decompose.inference.quantization.preparation import prepared
from decompose.inference.quantization.quantizers import SUFFIXES, Quantizer, get_quantizer_class
from decompose.inference.quantization.saturation import saturates
from decompose.utils.batches import Batches, chunks
from decompose.utils.errors import DecomposeError
from decompose.utils.files import writing, writing_together
from decompose.utils.progress import track
from decompose.utils.tables import Table

DEFAULT_ENGINE = "onnxruntime"

_HELD_OUT = 4
"""Every fourth image is held out."""

_MOST_FOR_LAYERS = 8
"""Most held-out images that each layer is tried on."""


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer of a quantised model.

    Attributes:
        name: its full name.
        error: relative squared error of the model's output where only this layer is in INT8.
        in_float: whether it stayed in float.
    """

    name: str
    error: float
    in_float: bool


@dataclass(frozen=True)
class Quantized:
    """A model in INT8, for one engine.

    Attributes:
        engine: the engine whose quantiser made it.
        files: contents of the files to write, by suffix.
        error: relative squared error of its output on the held-out images, against the float model.
        weight_bits: of its weights: 8, or 7 for processors whose products of bytes overflow.
        repairs: what lowered the error: ``factors`` that were equalised, ``ranges``, ``biases``.
        layers: in the model's order; without errors where they were not asked for.
    """

    engine: str
    files: Mapping[str, bytes]
    error: float
    weight_bits: int
    repairs: tuple[str, ...]
    layers: tuple[QuantizedLayer, ...]

    def save(self, path: str | Path) -> list[Path]:
        """Write the model; returns the files.

        Args:
            path: ends with the engine's suffix: ``.onnx``, or ``.xml`` (weights beside it in ``.bin``).

        Raises:
            DecomposeError: it ends otherwise, or cannot be written.
        """
        path = Path(path)
        require_suffix(path, self.engine)
        # The one that names the others comes last.
        files = {path.with_suffix(suffix): self.files[suffix] for suffix in sorted(self.files)}
        with writing_together():
            for file, content in files.items():
                with writing(file) as temporary:
                    temporary.write_bytes(content)
        return [*files]

    def table(self, most: int = 10) -> Table:
        """The layers whose INT8 loses most, first.

        Args:
            most: rows.
        """
        worst = sorted(self.layers, key=lambda layer: -layer.error)[:most]
        rows = [
            (layer.name, f"{layer.error:.2e}", "float" if layer.in_float else "INT8")
            for layer in worst
        ]
        return Table(
            f"Layers whose INT8 loses most, each alone; error of all: {self.error:.4f}",
            ("layer", "output error", "kept in"),
            rows,
        )


def quantize(
    model: nn.Module,
    images: Batches,
    *,
    engine: str = DEFAULT_ENGINE,
    keep_float: int = 0,
    max_error: float | None = None,
    weight_bits: int | None = None,
) -> Quantized:
    """Quantise a model to INT8, weights per channel, for an engine.

    BatchNorm is folded before, exactly (``preparation``). Three quarters of the images calibrate the
    engine's own quantiser; the others decide on equalised factors, on repairs and on layers to leave in
    float.

    Args:
        model: decomposed or not; left as it was.
        images: unlabelled inputs, a float32 tensor ``(batch, ...)`` or an iterable of batches.
        engine: ``onnxruntime`` (static QDQ) or ``openvino`` (NNCF).
        keep_float: number of layers to leave in float: those that lose most in INT8.
        max_error: largest relative squared error of the output; layers are left in float until it
            holds.
        weight_bits: 8, or 7 where products of bytes may overflow; by default as this processor needs.

    Returns:
        The model as files, its error and its layers.

    Raises:
        DecomposeError: there are fewer than two images, a number is out of bounds, the engine's
            quantiser is not installed or cannot take the model, or the error cannot be reached.

    Examples:
        >>> import torch
        >>> import decompose
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> quantized = decompose.quantize(model, torch.rand(4, 3, 12, 12))
        >>> quantized.error < 0.01
        True
    """
    kind = get_quantizer_class(engine)
    _require_bounds(keep_float, max_error, weight_bits)
    batches = [batch.detach().cpu() for batch in chunks(images, 1)]
    if len(batches) < 2:
        raise DecomposeError("quantising needs two images at least: one is held out")
    held_out = batches[_HELD_OUT - 1 :: _HELD_OUT] or batches[-1:]
    kept = {id(batch) for batch in held_out}
    seen = [batch for batch in batches if id(batch) not in kept]
    bits = weight_bits or (7 if saturates() else 8)
    # Equalised first: where both lose the same it is the one that was predicted to lose less.
    trials = {
        name: _Trial(kind(ready, seen, bits), held_out)
        for name, ready in prepared(model, seen).items()
    }
    chosen = min(trials, key=lambda name: trials[name].error)
    trial = trials[chosen]
    if not trial.quantizer.layers:
        raise DecomposeError("the model has no layer with weights that could be quantised")
    repairs = ([chosen] if chosen else []) + trial.repaired()
    losses = trial.losses() if keep_float or max_error is not None else {}
    in_float = trial.in_float(losses, keep_float, max_error)
    layers = tuple(
        QuantizedLayer(name, losses.get(name, float("nan")), name in in_float)
        for name in trial.quantizer.layers
    )
    return Quantized(engine, trial.files, trial.error, bits, tuple(repairs), layers)


def require_suffix(path: Path, engine: str) -> None:
    """Check that a file is named as the engine's models are.

    Raises:
        DecomposeError: it is not.
    """
    suffix = SUFFIXES.get(engine)
    if suffix is not None and path.suffix.lower() != suffix:
        raise DecomposeError(f"{path}: INT8 models for {engine} are {suffix} files")


class _Trial:
    """A quantiser, and its model's error on held-out images.

    Args:
        quantizer: whose repairs are to be tried.
        held_out: batches that it was not given.
    """

    def __init__(self, quantizer: Quantizer, held_out: Sequence[Tensor]) -> None:
        self.quantizer = quantizer
        self._held_out = held_out
        self._wanted = quantizer.float_outputs(held_out)
        self.files = quantizer.quantized()
        self.error = self._error_of(self.files)

    def repaired(self) -> list[str]:
        """Make the repairs that lower the error; their names."""
        taken = []
        for name in self.quantizer.repairs:
            other = self.quantizer.repair(name)
            files = other.quantized()
            error = self._error_of(files)
            if error < self.error:
                self.quantizer, self.files, self.error = other, files, error
                taken.append(name)
        return taken

    def losses(self) -> dict[str, float]:
        """The error of the output with each layer alone in INT8."""
        return {
            name: self._error_of(self.quantizer.quantized_alone(name), _MOST_FOR_LAYERS)
            for name in track(list(self.quantizer.layers), "quantising layers")
        }

    def in_float(
        self, losses: Mapping[str, float], at_least: int, max_error: float | None
    ) -> set[str]:
        """Leave layers in float: ``at_least`` of them, or as many as ``max_error`` needs, by bisection."""
        worst = sorted(losses, key=lambda name: -losses[name])
        if at_least:
            self._take(worst[:at_least])
        if max_error is None or self.error <= max_error:
            return set(worst[:at_least])
        low, high = at_least, len(worst)
        while high - low > 1:
            middle = (low + high) // 2
            files = self.quantizer.quantized(worst[:middle])
            low, high = (low, middle) if self._error_of(files) <= max_error else (middle, high)
        if high == len(worst):
            raise DecomposeError(
                f"an error of {max_error:g} leaves no layer in INT8; all of them lose {self.error:.2g}"
            )
        self._take(worst[:high])
        return set(worst[:high])

    def _take(self, in_float: Sequence[str]) -> None:
        self.files = self.quantizer.quantized(in_float)
        self.error = self._error_of(self.files)

    def _error_of(self, files: Mapping[str, bytes], most: int | None = None) -> float:
        """Relative squared error on the held-out images."""
        given = self.quantizer.outputs(files, self._held_out[:most])
        lost = total = 0.0
        for ours, theirs in zip(given, self._wanted, strict=False):
            for y, wanted in zip(ours, theirs, strict=True):
                lost += float(np.square(y - wanted, dtype=np.float64).sum())
                total += float(np.square(wanted, dtype=np.float64).sum())
        return lost / max(total, 1e-30)


def _require_bounds(keep_float: int, max_error: float | None, weight_bits: int | None) -> None:
    if keep_float < 0:
        raise DecomposeError(f"keep_float {keep_float}: it is a number of layers, 0 or more")
    if max_error is not None and max_error <= 0:
        raise DecomposeError(f"max_error {max_error:g}: it is an error above 0")
    if weight_bits not in (None, 7, 8):
        raise DecomposeError(f"weight_bits {weight_bits}: weights have 7 or 8 bits")
