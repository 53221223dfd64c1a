"""Blockwise reconstruction: train each layer's factors alone on the original layer's outputs.

Layer after layer, in the order in which they run, on the input that the small model has there now
and the output that the original has: asymmetric, so that later layers make good what earlier ones
lose (Zhang et al. 2016, arXiv 1505.06798, section 3.3). Where repair solves for the last factors,
gradient steps move all of them, and need no labels and no pass through the rest of the model
(block reconstruction as in BRECQ, Li et al. 2021, arXiv 2102.05426, with a layer for a block).
Where a rectifier follows, what it cuts off is left free.

A layer takes ``steps`` forward and backward passes of its own, and two passes of the models up to it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from decompose.algebra import balanced, leaves
from decompose.layers.discovery import find_lossy
from decompose.layers.forward import evaluating
from decompose.layers.hooks import calls_until
from decompose.layers.modules import DecomposedLayer, Layer
from decompose.layers.relu import Rectifier
from decompose.layers.survey import survey
from decompose.utils.batches import Batches, Example, InputBatches, batch_size
from decompose.utils.errors import DecomposeError
from decompose.utils.progress import track
from decompose.utils.tables import Table

_EVERY = 4
"""One of this many inputs is held out to judge the steps."""

_NUM_LOOKS = 8
"""How often a layer is judged on the way; the best of these is kept."""

_TOGETHER = 8
"""Inputs that pass through the models at a time."""

_BATCH = 8
"""Calls of a layer in a step."""

_MOST_BYTES = 2 << 30
"""Most bytes of a layer's inputs and outputs; beyond, fewer inputs are taken."""


@dataclass(frozen=True)
class Reconstruction:
    """The result of one layer's reconstruction.

    Attributes:
        name: its full name.
        before: relative squared error of its output, or where a rectifier follows of what goes on, on
            inputs held out, given the reconstructed layers before it.
        after: the same once it is reconstructed; never more.
    """

    name: str
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of a layer with one input.

    Attributes:
        seen: ``(1, I, *input_size)``, what the small model gives it.
        wanted: ``(1, O, *output_size)``, what the original makes of its own input.
    """

    seen: Tensor
    wanted: Tensor


@dataclass(frozen=True, eq=False)
class Aim:
    """The part of a layer's output that counts, such as what a ReLU passes.

    Attributes:
        rectifier: what follows the layer, if anything does that cuts off.
        axis: of the channels.
    """

    rectifier: Rectifier | None
    axis: int

    def loss(self, body: nn.Module, batch: LayerCall) -> Tensor:
        """Squared error over the energy of the target, a differentiable scalar.

        A rectifier's slopes weigh it, and what its threshold cuts off is free.
        """
        given, wanted = self._channels_last(body(batch.seen), batch.wanted)
        if self.rectifier is None:
            return (given - wanted).square().sum() / _energy(wanted)
        targets = self.rectifier.targets(wanted, given.detach())
        squared = ((given - targets) * self.rectifier.slope).square().sum()
        return squared / _energy(self.rectifier.read(wanted))

    def error(self, body: nn.Module, calls: Sequence[LayerCall]) -> float:
        """Relative squared error over calls, of the part that counts."""
        squared, energy = 0.0, 0.0
        for call in calls:
            with torch.no_grad():
                given, wanted = self._channels_last(body(call.seen), call.wanted)
            if self.rectifier is not None:
                given, wanted = self.rectifier.read(given), self.rectifier.read(wanted)
            squared += float((given - wanted).square().sum(dtype=torch.float64))
            energy += float(wanted.square().sum(dtype=torch.float64))
        return squared / energy if energy else squared

    def _channels_last(self, *outputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(output.movedim(self.axis, -1) for output in outputs)


def reconstruction_table(found: Sequence[Reconstruction]) -> Table:
    """A row a layer."""
    rows = [(r.name, f"{r.before:.5f}", f"{r.after:.5f}") for r in found]
    return Table(
        "Blockwise; error of each layer's output on inputs held out, layers before it reconstructed",
        ["layer", "before", "after"],
        rows,
    )


def reconstruct_(
    small: nn.Module,
    model: nn.Module,
    images: Batches,
    *,
    steps: int = 200,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> list[Reconstruction]:
    """Train the factors of every rewritten layer by themselves, in place.

    Args:
        small: what ``apply`` made of the model.
        model: the original; left as it was.
        images: unlabelled inputs, as ``inputs`` takes them; at least two.
        steps: of Adam, for each layer.
        learning_rate: that they begin with; it falls to 0 along a cosine.
        seed: of what each step is taken on.

    Returns:
        What was done to each layer that had lost something, in the order in which they run.

    Raises:
        DecomposeError: there are fewer than two inputs, or ``small`` was not made from ``model``.
    """
    inputs = list(InputBatches(images, model).batches(_TOGETHER))
    if sum(map(batch_size, inputs)) < 2:
        raise DecomposeError(
            "blockwise reconstruction needs two inputs: one to fit, one to judge on"
        )
    known = survey(model, inputs[0])
    calls = known.num_calls
    todo = find_lossy(small, known.layers, calls)
    rectifiers = known.rectifiers(todo)
    found = []
    for name, (layer, original) in track(todo.items(), "blockwise", total=len(todo)):
        pair = (small, layer), (model, original)
        with evaluating(small, model):
            kept = _calls(*pair, calls[name], inputs)
        axis = 1 if next(leaves(layer.expression)).geometry.num_axes else -1
        aim = Aim(rectifiers.get(name), axis)
        before, after = _reconstruct(layer, *kept, aim, steps, learning_rate, seed)
        found.append(Reconstruction(name, before, after))
    return found


def _calls(
    small: tuple[nn.Module, DecomposedLayer],
    model: tuple[nn.Module, Layer],
    num_calls: int,
    inputs: Sequence[Example],
) -> tuple[list[LayerCall], list[LayerCall]]:
    """The calls of a layer with inputs held out, and with others; as many as memory holds."""
    room = _MOST_BYTES
    held: list[LayerCall] = []
    fitted: list[LayerCall] = []
    count = 0
    for x in inputs:
        seen, wanted = (calls_until(*pair, num_calls, x) for pair in (small, model))
        for (before, _), (_, after) in zip(seen, wanted, strict=True):
            room -= before.nbytes + after.nbytes
            for row, (one, other) in enumerate(zip(before.split(1), after.split(1), strict=True)):
                # A layer may see several rows of one input, such as windows.
                index = count + row * batch_size(x) // len(before)
                (fitted if index % _EVERY else held).append(LayerCall(one, other))
        count += batch_size(x)
        if room < 0 and fitted:
            break
    return held, fitted


def _reconstruct(
    layer: DecomposedLayer,
    held: Sequence[LayerCall],
    fitted: Sequence[LayerCall],
    aim: Aim,
    steps: int,
    learning_rate: float,
    seed: int,
) -> tuple[float, float]:
    """Train one layer, and keep the best weights on held-out calls; their error before and after."""
    layer.assign(balanced(layer.expression))
    before = best = aim.error(layer.body, held)
    body = copy.deepcopy(layer.body).requires_grad_(True)
    optimiser = Adam(body.parameters(), learning_rate)
    schedule = CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        drawn = torch.randint(len(fitted), (_BATCH,), generator=generator).tolist()
        with torch.enable_grad():
            losses = [aim.loss(body, batch) for batch in _alike(fitted, drawn)]
            torch.stack(losses).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        if step % -(-steps // _NUM_LOOKS) == 0 or step == steps:
            error = aim.error(body, held)
            if error < best:
                best = error
                layer.body.load_state_dict(body.state_dict())
    return before, best


def _alike(calls: Sequence[LayerCall], drawn: Sequence[int]) -> Iterator[LayerCall]:
    """Join drawn calls of one shape to a batch."""
    shapes = {calls[index].seen.shape for index in drawn}
    for shape in sorted(shapes):
        chosen = [calls[index] for index in drawn if calls[index].seen.shape == shape]
        yield LayerCall(torch.cat([c.seen for c in chosen]), torch.cat([c.wanted for c in chosen]))


def _energy(wanted: Tensor) -> Tensor:
    energy = wanted.square().sum()
    return torch.where(energy > 0, energy, 1.0)
