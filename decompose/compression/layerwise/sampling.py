"""Sample layers' inputs, and the original's outputs, at random positions.

Neighbouring positions of one image are nearly alike, so that a fit learns more from ten positions of
each of many images than from all positions of a few (Zhang et al. 2016, arXiv 1505.06798, section 4;
He et al. 2017, arXiv 1707.06168, section 4). The positions are drawn once, by a seed, from those
of the layer's output, without repeating any within an image.

The original runs once, for all layers. A layer's input is taken from the smaller model at the
time of the call, so that layers before it may be decomposed already: with the original's output
as the target, that is the asymmetric reconstruction of Zhang et al., section 3.3. Activations are
streamed; only the samples are kept, n (I K + O) numbers a layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from decompose.algebra import Conv, at_least_float32, outputs_at, patches_at
from decompose.layers.forward import comparable_outputs, evaluating
from decompose.layers.hooks import calls_until, observing
from decompose.layers.modules import to_conv
from decompose.layers.survey import survey
from decompose.utils.batches import Batches, InputBatches
from decompose.utils.errors import DecomposeError


@dataclass(frozen=True, eq=False)
class Samples:
    """Patches of a layer's input, and targets for its output, at n positions; in float32 at least.

    Attributes:
        patches: of its present input, ``(n, I, *kernel_size)``.
        targets: the original's output, ``(n, O)``.
    """

    patches: Tensor
    targets: Tensor

    def of_inputs(self, kept: Tensor) -> Samples:
        """Restrict the samples to some of the input channels, ``(n,)`` int64."""
        return replace(self, patches=self.patches[:, kept])


class Sampler:
    """Draws positions, and keeps the original's outputs there.

    Args:
        model: the original; left as it was.
        images: unlabelled inputs that give the same each time they are gone through.
        names: of layers with a spatial axis that are not transposed, in full.
        num_positions: positions of each output; all of them where there are fewer.
        batch_size: inputs at a time.
        seed: of the positions.

    Attributes:
        survey: of the model, on the first input.

    Raises:
        DecomposeError: there are no inputs, or a layer has no such axis or is transposed.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Batches,
        names: Sequence[str],
        *,
        num_positions: int = 10,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        self._inputs, self._batch_size = InputBatches(images, model), batch_size
        self.survey = survey(model, next(iter(self._inputs)))
        layers = self.survey.chosen(names)
        self._convs: dict[str, Conv] = {name: to_conv(layer) for name, layer in layers.items()}
        for name, conv in self._convs.items():
            if conv.geometry.transposed or conv.geometry.num_axes == 0:
                raise DecomposeError(f"layer {name}: only ordinary convolutions can be sampled")
        self._positions: dict[str, list[Tensor]] = defaultdict(list)
        self._targets: dict[str, list[Tensor]] = defaultdict(list)
        self._num_batches = 0
        generator = torch.Generator().manual_seed(seed)

        def keep(name: str, _: Tensor, output: Tensor) -> None:
            """Draw positions of an output ``(batch, O, *output_size)``, and keep the values there."""
            conv = self._convs[name]
            size = output.shape[output.ndim - conv.geometry.num_axes :]
            chosen = _draw(len(output), prod(size), num_positions, generator).to(output.device)
            self._positions[name].append(chosen)
            self._targets[name].append(at_least_float32(outputs_at(conv, output, chosen)).cpu())

        with evaluating(model), observing(layers, keep):
            for x in self._inputs.batches(batch_size):
                comparable_outputs(model, x)
                self._num_batches += 1

    @property
    def batch(self) -> Tensor | None:
        """All inputs, if they are one batch that calls each layer once."""
        one = all(len(chosen) == 1 for chosen in self._positions.values())
        return next(self._inputs.batches(self._batch_size)) if one else None

    @property
    def names(self) -> list[str]:
        """The layers that the original reaches, in the order in which they run."""
        return list(self._positions)

    def sample(self, small: nn.Module, name: str) -> Samples:
        """Sample a layer's input in a smaller model, and the original's output.

        Args:
            small: a model with the same layers, decomposed or not.
            name: of one of ``names``.
        """
        layer = small.get_submodule(name)
        chosen = iter(self._positions[name])
        calls = len(self._positions[name]) // self._num_batches
        with evaluating(small):
            rows = [
                self._taken(name, before, next(chosen))
                for x in self._inputs.batches(self._batch_size)
                for before, _ in calls_until(small, layer, calls, x)
            ]
        return Samples(torch.cat(rows), torch.cat(self._targets[name]))

    def samples_of(self, name: str, before: Tensor) -> Samples:
        """As ``sample``, from the layer's input when ``batch`` passes, ``(batch, I, *input_size)``."""
        (positions,), (targets,) = self._positions[name], self._targets[name]
        return Samples(self._taken(name, before, positions), targets)

    def _taken(self, name: str, before: Tensor, chosen: Tensor) -> Tensor:
        return at_least_float32(patches_at(self._convs[name], before, chosen)).cpu()


def _draw(batch: int, num_positions: int, most: int, generator: torch.Generator) -> Tensor:
    """Draw different positions for each input, ``(batch, n)``, int64."""
    order = torch.rand(batch, num_positions, generator=generator)
    return order.topk(min(most, num_positions)).indices
