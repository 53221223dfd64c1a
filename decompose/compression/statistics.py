"""Statistics of layers: moments of their inputs, and the metric of their outputs.

One pass over unlabelled inputs, and one back for some of them, gather for every layer to be decomposed

- the mean and the covariance C of its input's patches, from which the channels' covariance
  follows;
- the metric B of its output: how strongly the model's output y moves with it, to first order.
  With z the layer's output at one position and v of random signs,
  ``B = E[sum over positions g g^T] / E|y|^2`` for ``g = d(v . y) / dz``.

An expression whose kernel differs from the layer's by D then moves the model's output by a relative
squared error of ``tr(B D C D^T)``, as if its errors at different positions were uncorrelated: the
Kronecker-factored Gauss-Newton matrix of Martens and Grosse 2015 (arXiv 1503.05671), for convolutions
Grosse and Martens 2016 (arXiv 1602.01407), put to use on a perturbation of known shape instead of a
gradient.

Only sums are kept, so memory does not grow with the number of inputs: 4 bytes for each entry of a
covariance, about half a gigabyte for VGG16.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from decompose.algebra import Conv, at_least_float32, finite_rows, strided_outputs
from decompose.algebra.gram import add_gram_, mirror_
from decompose.compression.input_moments import MOST_POSITIONS, InputMoments
from decompose.compression.layer_statistics import (
    LayerStatistics,
    is_count,
    require,
    require_corrections,
    require_moments,
)
from decompose.compression.score_balance import ScoreBalance
from decompose.layers.forward import (
    comparable_outputs,
    evaluating,
    largest_batch,
    warn_of_infinite,
)
from decompose.layers.hooks import observing
from decompose.layers.modules import Layer, to_conv
from decompose.utils.batches import Batches, InputBatches, batch_size, grouped, map_tensors
from decompose.utils.errors import DecomposeError, reason
from decompose.utils.files import writing
from decompose.utils.hashing import content_digest
from decompose.utils.progress import track
from decompose.utils.safetensors_files import write_tensors

_WIDEST = 8192
"""Patches longer than this keep their variances only."""

_MOST_DIFFERENTIATED = 64
"""Inputs that gradients are taken of: each gives many positions, and a pass back costs two forward."""

_ROWS = 512
"""Rows of a covariance that are in float64 together."""

_FORMAT = "decompose-statistics"
_PARTS = ("mean", "covariance", "metric")


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of the layers of a model.

    Attributes:
        layers: by full name.
        num_inputs: number of inputs.
        corrections: by layer and methods, the measured error of the model's output over the predicted
            one (``search.sensitivity``); empty until measured.
    """

    layers: Mapping[str, LayerStatistics]
    num_inputs: int
    corrections: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the statistics to a safetensors file.

        Raises:
            DecomposeError: the file cannot be written.
        """
        tensors = {
            f"{name}/{part}": getattr(layer, part).contiguous()
            for name, layer in self.layers.items()
            for part in _PARTS
        }
        record = {
            "num_inputs": self.num_inputs,
            "num_patches": {name: layer.num_patches for name, layer in self.layers.items()},
            "gains": self.corrections,
        }
        text = json.dumps(record)
        digest = content_digest(text, tensors)
        metadata = {"format": _FORMAT, "record": text, "sha256": digest}
        with writing(Path(path)) as temporary:
            write_tensors(tensors, temporary, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read statistics from a file that ``save`` wrote.

        Raises:
            DecomposeError: there is no such file, or it holds no statistics.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        # A header may hold anything.
        except Exception as error:  # noqa: BLE001
            raise DecomposeError(f"{path}: cannot be read as statistics: {reason(error)}") from None
        if metadata.get("format") != _FORMAT:
            raise DecomposeError(f"{path}: holds no statistics")
        try:
            # Files of earlier days have no digest.
            digest = content_digest(metadata["record"], tensors)
            require(metadata.get("sha256", digest) == digest)
            record = json.loads(metadata["record"])
            layers = {
                name: LayerStatistics(count, *(tensors[f"{name}/{part}"] for part in _PARTS))
                for name, count in record["num_patches"].items()
            }
            for layer in layers.values():
                require_moments(layer)
            require_corrections(record["gains"], layers)
            require(is_count(record["num_inputs"]))
            return cls(layers, record["num_inputs"], record["gains"])
        except Exception:  # noqa: BLE001
            raise DecomposeError(
                f"{path}: is damaged and holds no statistics; measure them again"
            ) from None


def gather(model: nn.Module, images: Batches, layers: Mapping[str, Layer]) -> Statistics:
    """Gather the statistics of a model's layers in one pass.

    Args:
        model: left as it was.
        images: unlabelled inputs ``(batch, ...)``, or an iterable of such, or of tuples that begin
            with such.
        layers: convolutions and fully connected layers of the model, by full name.

    Raises:
        DecomposeError: there are no inputs, or the model's output holds no floating tensor.
    """
    inputs = InputBatches(images, model)
    size = largest_batch(model, list(islice(inputs, 2)))
    most = size * MOST_POSITIONS
    sums = {name: PatchMoments(to_conv(module), most) for name, module in layers.items()}
    num_batches = None if (total := inputs.count()) is None else -(-total // size)
    energy, count, num_outputs, num_finite = 0.0, 0, 0, 0
    generator = torch.Generator().manual_seed(0)
    balance: ScoreBalance | None = None
    with evaluating(model):
        for x in track(grouped(inputs, size), "gathering statistics", num_batches):
            is_differentiated = count < _MOST_DIFFERENTIATED
            with _observing(sums, layers), torch.set_grad_enabled(is_differentiated):
                entries: list[Tensor] = []
                outputs = comparable_outputs(model, map_tensors(partial(_as_leaf, entries), x))
                balance = balance or ScoreBalance.of(outputs)
                outputs = balance.applied(outputs)
                finite = [_finite_entries(y.detach()) for y in outputs]
                num_outputs += sum(y.numel() for y in outputs)
                num_finite += sum(y.numel() for y in finite)
                if is_differentiated:
                    energy += sum(float(y.double().square().sum()) for y in finite)
                    _backpropagate(outputs, entries or _trained(model), generator)
            count += batch_size(x)
    warn_of_infinite(num_outputs - num_finite, num_outputs)
    # Each layer's sums end with their layer, since they are large.
    found = {name: sums.pop(name).statistics(energy) for name in layers if sums[name].count}
    return Statistics(found, count)


class PatchMoments(InputMoments):
    """Sums of products of the patches of one layer, and of the gradients of its output."""

    is_shifted = True
    thins_pixels = True

    def __init__(self, conv: Conv, most: int = MOST_POSITIONS) -> None:
        super().__init__(conv, most)
        groups, length = conv.groups, self.depth * self.num_taps
        self._is_diagonal = length > _WIDEST
        shape = (groups, length) if self._is_diagonal else (groups, length, length)
        outputs = conv.out_channels // groups
        self._square = torch.zeros(shape).to(at_least_float32(conv.weight))
        self._metric = torch.zeros(groups, outputs, outputs, dtype=torch.float64)

    def _add_products(self, rows: Tensor) -> None:
        rows = rows.flatten(2)
        if self._is_diagonal:
            self._square += rows.square().sum(1)
        else:
            add_gram_(self._square, rows)

    def add_gradient(self, gradient: Tensor) -> None:
        """Add the gradient with respect to the output of one call, ``(batch, O, *output_size)``."""
        every, step = self.strides(gradient)
        rows = strided_outputs(self.conv, at_least_float32(gradient[::every]), step)
        (rows,) = finite_rows(rows, axis=0)
        if not len(rows):
            return
        total = gradient.numel() // self.conv.out_channels
        rows = rows.unflatten(1, (self.conv.groups, -1)).transpose(0, 1)
        self._metric += (rows.mT @ rows).cpu() * (total / rows.shape[1])

    def statistics(self, energy: float) -> LayerStatistics:
        """Mean, covariance and metric; the sums become them, and are no more.

        Args:
            energy: sum of squares of all outputs of the model.
        """
        shifted, mean = (self.sum / self.count).flatten(1), self.mean().flatten(1)
        covariance = self._square.cpu()
        if self._is_diagonal:
            square = covariance.double() / self.count
            covariance.copy_((square - shifted.square()).clamp_min(0))
        else:
            for part, means in zip(
                mirror_(covariance).split(_ROWS, 1), shifted.split(_ROWS, 1), strict=True
            ):
                square = part.double() / self.count
                part.copy_(square - means.unsqueeze(2) * shifted.unsqueeze(1))
        metric = self._metric / energy if energy else self._metric
        if self.conv.geometry.transposed:
            # A pixel meets each tap at another position of the output.
            taps = self.conv.num_taps
            mean = mean.repeat_interleave(taps, 1)
            eye = torch.eye(taps, dtype=covariance.dtype)
            covariance = torch.stack([torch.kron(block, eye) for block in covariance])
        return LayerStatistics(self.count, mean, covariance, metric)


def _observing(
    sums: Mapping[str, PatchMoments], layers: Mapping[str, nn.Module]
) -> AbstractContextManager[None]:
    def observe(name: str, x: Tensor, output: Tensor) -> None:
        sums[name].add(x, output)
        if output.requires_grad:
            output.register_hook(sums[name].add_gradient)

    return observing(layers, observe)


def _as_leaf(leaves: list[Tensor], x: Tensor) -> Tensor:
    """Make an input a leaf that gradients go back to, and add it to the others."""
    if not x.is_floating_point():
        return x
    leaves.append(x.detach().requires_grad_())
    # A model may work in place, which a leaf does not allow.
    return leaves[-1].clone()


def _finite_entries(y: Tensor) -> Tensor:
    finite = torch.isfinite(y)
    return y if finite.all() else y[finite]


def _trained(model: nn.Module) -> list[Tensor]:
    """Parameters that gradients go back to, in a model of tokens."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _backpropagate(
    outputs: Iterable[Tensor], leaves: Sequence[Tensor], generator: torch.Generator
) -> None:
    """Send random signs back from the outputs; the layers' hooks see the gradients."""
    wanted = [y for y in outputs if y.requires_grad]
    signs = [(2 * torch.randint(2, y.shape, generator=generator) - 1).to(y) for y in wanted]
    # Outputs that are not finite are not compared, so no gradient goes back from them.
    signs = [sign.masked_fill(~torch.isfinite(y), 0) for sign, y in zip(signs, wanted, strict=True)]
    if wanted and leaves:
        # Of the sum: to take signs as they are, torch imports symbolic algebra for half a second.
        signed = ((y * sign).sum() for y, sign in zip(wanted, signs, strict=True))
        total = sum(signed, torch.zeros(()))
        torch.autograd.grad(total, leaves, allow_unused=True)
