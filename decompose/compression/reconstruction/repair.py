"""Repair a decomposed model: refit each layer to the original's outputs.

Layer after layer, in the order in which they run, the factors of a decomposed layer are
fitted to the *original* layer's output, given the input that the layer has now, after all
layers before it were truncated and repaired: the asymmetric reconstruction of Zhang et al. 2016
(arXiv 1505.06798, section 3.3). Errors of earlier layers are so made good by later ones, and
activations that had shrunk grow back. Where a ReLU follows, outputs that it cuts off are left out of
account (section 3.2; ``relu_regression``).

Of many inputs all factors are fitted together (``joint_fit``). Of few, or where patches are large, the last
factors alone are regressed, which leaves the others to the truncation.

The kernel is truncated anew in whitened coordinates (``algebra.whitening``): refitted, that was better
than the kernel's own in 17 of 18 layers of CIFAR-10's ResNet-20. With few inputs a regression
overfits. So each input is augmented (``input_augmentations``), synthetic inputs help, and the fit
is pulled towards the truncated factor by a ridge (``ridge``). How hard, or whether only each channel's
scale or only its bias is refitted, is decided for each layer on inputs held out of the fit
(``cross_validation``). Where nothing makes those better, the layer is left as it was.

All layers together take about one pass of each model (``paired_passes``), and memory does not grow with
the number of inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from decompose.algebra import Conv, Expression, keep_inputs_refitted, leaves, map_leaves, widened
from decompose.compression.checkpoints import CompressionCheckpoints
from decompose.compression.covariances import AxisCovariances, gather_covariances, is_whitenable
from decompose.compression.effort import DEFAULT_EFFORT, Effort, effort_of
from decompose.compression.reconstruction.cross_validation import BestRefit, best_refit
from decompose.compression.reconstruction.factor_regression import (
    Targets,
    patches_of_each,
    positions_of_each,
)
from decompose.compression.reconstruction.folded_batches import FoldedBatches
from decompose.compression.reconstruction.joint_fit import (
    are_many,
    best_joint_fit,
    can_fit_jointly,
)
from decompose.compression.reconstruction.paired_passes import PairedPasses
from decompose.compression.reconstruction.refit_problem import LayerError, RefitProblem
from decompose.data.synthetic import synthetic_inputs
from decompose.layers.channel_pruning import kept_outputs, kept_rows, with_kept_outputs
from decompose.layers.discovery import find_lossy
from decompose.layers.forward import largest_batch
from decompose.layers.modules import DecomposedLayer, to_conv
from decompose.layers.relu import Rectifier
from decompose.layers.survey import Survey, survey
from decompose.utils.batches import Batches, Example, InputBatches
from decompose.utils.errors import DecomposeError
from decompose.utils.progress import track
from decompose.utils.tables import Table

_AIDS_SEED = 1
"""Other synthetic inputs than those that models are repaired on without data."""

_AIDS_OF_MANY = 8
"""Synthetic inputs beside many others. Without them ResNet-20 at half its MACs loses 0.08 points more on 64
images of CIFAR-10, and with twice as many no less.
"""


@dataclass(frozen=True)
class LayerRepair:
    """Repair of one layer.

    Attributes:
        name: its full name.
        how: ``all factors, ridge 0.1``; where the last factors alone were refitted ``ridge 0.3``,
            ``scale``, ``bias`` or ``not refitted``, with ``whitened`` before it where the kernel was
            truncated in whitened coordinates; ``rectified`` after it where the refit left free what a
            rectifier cuts off; ``left`` where nothing made it better.
        before: relative squared error of its output, given the repaired layers before it; where a
            rectifier follows, of what goes on.
        after: the same on inputs held out of the fit, once it is repaired.
    """

    name: str
    how: str
    before: float
    after: float


def repair_table(repairs: Sequence[LayerRepair]) -> Table:
    """Make a table of repairs, a row for each layer."""
    rows = [(r.name, r.how, f"{r.before:.5f}", f"{r.after:.5f}") for r in repairs]
    return Table(
        "Repair; error of each layer's output on inputs held out, layers before it repaired",
        ["layer", "refit", "before", "after"],
        rows,
    )


def repair_(
    small: nn.Module,
    model: nn.Module,
    images: Batches,
    *,
    effort: str = DEFAULT_EFFORT,
    checkpoints: CompressionCheckpoints | None = None,
) -> list[LayerRepair]:
    """Refit the factors of every decomposed layer, in place.

    Args:
        small: what ``apply`` made of the model.
        model: the original; left as it was.
        images: unlabelled inputs ``(batch, ...)``, or an iterable of such, or of tuples that begin
            with such; at least two.
        effort: how long it may take: ``quick``, ``normal`` or ``thorough``.
        checkpoints: that keep every repaired layer, and hold those of an interrupted run.

    Returns:
        What was done to each layer that had lost something, in the order in which they run.

    Raises:
        DecomposeError: there are fewer than two inputs, or ``small`` was not made from ``model``, or
            there is no such effort.
    """
    inputs = InputBatches(images, model)
    known = survey(model, next(iter(inputs)))
    return repair_layers_(small, known, inputs, effort_of(effort), checkpoints)


def repair_layers_(
    small: nn.Module,
    known: Survey,
    inputs: InputBatches,
    effort: Effort,
    checkpoints: CompressionCheckpoints | None = None,
) -> list[LayerRepair]:
    """Repair as ``repair_`` does, where the original has been surveyed already.

    Args:
        small: what ``apply`` made of the model.
        known: the survey of the original, on the first of the inputs.
        inputs: at least two.
        effort: its settings.
        checkpoints: as for ``repair_``.
    """
    model, calls = known.model, known.num_calls
    todo = find_lossy(small, known.layers, calls)
    if not todo:
        return []
    if len(list(islice(inputs, 2))) < 2:
        raise DecomposeError("repair needs two inputs at least: one to fit, one to check on")
    convs = {
        n: with_kept_outputs(to_conv(original), layer) for n, (layer, original) in todo.items()
    }
    narrow = {n: m for n, m in known.chosen(todo).items() if is_whitenable(convs[n])}
    size = largest_batch(model, list(islice(inputs, 2)))
    covariances = gather_covariances(model, inputs, narrow, effort.num_whitening, size)
    rectifiers = known.rectifiers(todo)
    many = are_many(inputs)
    aids = _aids(known.example, model, _num_aids(inputs, effort, are_many=many))
    batches = FoldedBatches(inputs, aids, size, are_many=many)
    repairs = []
    with PairedPasses(small, model, todo, calls, batches) as passes:
        refits = _Refits(passes, size, many, effort.is_rectified)
        layers = track(todo.items(), "repairing", total=len(todo))
        for index, (name, (layer, original)) in enumerate(layers):
            if checkpoints is not None and (kept := checkpoints.repaired(index)):
                layer.assign(_with_tensors(layer.expression, kept["factors"]))
                repairs.append(LayerRepair(**kept["repair"]))
                continue
            truncated = _truncated(layer, convs[name], covariances.get(name))
            seen, rectifier = _seen_by(layer, convs[name]), rectifiers.get(name)
            rows = kept_rows(layer, to_conv(original).out_channels)
            if rectifier is not None and rows is not None:
                rectifier = rectifier.of(rows)
            best = refits.best(name, layer, seen, truncated, rectifier)
            if best.expression is not None:
                layer.assign(best.expression)
            repairs.append(LayerRepair(name, best.how, best.before, best.after))
            if checkpoints is not None:
                factors = [[leaf.weight, leaf.bias] for leaf in leaves(layer.expression)]
                kept = {"repair": asdict(repairs[-1]), "factors": factors}
                checkpoints.keep_repaired(index, kept)
    return repairs


@dataclass(frozen=True, eq=False)
class _Refits:
    """Refits of one layer after another.

    Attributes:
        passes: through both models.
        size: inputs in a batch, at most.
        are_many: whether inputs are many enough to fit all factors together.
        is_rectified: whether outputs that a ReLU cuts off may be left free.
    """

    passes: PairedPasses
    size: int
    are_many: bool
    is_rectified: bool

    def best(
        self,
        name: str,
        layer: DecomposedLayer,
        conv: Conv,
        truncated: tuple[Expression, str],
        rectifier: Rectifier | None,
    ) -> BestRefit:
        """The best refit of a layer on inputs held out.

        Args:
            name: of the layer; each once, in order.
            layer: as it is.
            conv: the original.
            truncated: the factors to start from, and their label.
            rectifier: of the ReLU that follows, if one does.
        """
        start, label = truncated
        if self.are_many and not isinstance(start, Conv) and can_fit_jointly(start, conv):
            problem = RefitProblem(label, widened(conv), rectifier)
            most = patches_of_each(problem.num_features, self._num_inputs(name))
            for fold, seen, wanted in self._calls(name, layer):
                problem.add(fold, seen, Targets.of(conv, wanted, self.size * most))
            unchanged = widened(layer.expression)
            return best_joint_fit(problem, start, unchanged, is_rectified=self.is_rectified)
        problem = RefitProblem(label, start, rectifier)
        error = LayerError(widened(layer.expression), rectifier)
        most = positions_of_each(problem.num_features, self._num_inputs(name))
        for fold, seen, wanted in self._calls(name, layer):
            targets = Targets.of(conv, wanted, self.size * most)
            error.add(fold, seen, targets)
            problem.add(fold, seen, targets)
        return best_refit(problem, error, is_rectified=self.is_rectified)

    def _calls(
        self, name: str, layer: DecomposedLayer
    ) -> Iterator[tuple[int | None, Tensor, Tensor]]:
        """Fold and input of every call, and the original's output, of the channels that are left."""
        for fold, seen, wanted in self.passes.behind(name):
            yield fold, seen, kept_outputs(layer, wanted)

    def _num_inputs(self, name: str) -> int:
        return self.size * self.passes.num_batches(name)


def _num_aids(inputs: InputBatches, effort: Effort, *, are_many: bool) -> int:
    """Number of synthetic inputs that help: as many as are missing, or a few to fit all factors."""
    if are_many:
        return _AIDS_OF_MANY
    return effort.fewest_inputs - sum(1 for _ in islice(inputs, effort.fewest_inputs))


def _aids(example: Example, model: nn.Module, num: int) -> Iterable[Any]:
    """Synthetic inputs that help where the given ones are few, or unknowns many."""
    if not num or (isinstance(example, Tensor) and not example.is_floating_point()):
        return []
    return InputBatches(synthetic_inputs(example, model, num=num, seed=_AIDS_SEED), model)


def _seen_by(layer: DecomposedLayer, conv: Conv) -> Conv:
    """The original's kernel for the input channels that are left."""
    pruned = layer.choice.pruned
    return conv if pruned is None else pruned.of(conv)


def _truncated(
    layer: DecomposedLayer, conv: Conv, covariances: AxisCovariances | None
) -> tuple[Expression, str]:
    """The layer truncated in whitened coordinates, or as it is if those are not known, and which.

    So it is where the factors were made of others, which a truncation of the kernel would not give.
    """
    if covariances is None or layer.is_made_in_turn:
        return widened(layer.expression), ""
    wide = widened(conv)
    assert isinstance(wide, Conv)
    choice = layer.choice
    if (pruned := choice.pruned) is not None:
        if not pruned.is_done(wide):
            kept = torch.tensor(pruned.kept)
            return choice.go_on(keep_inputs_refitted(wide, covariances.channels[0], kept)), ""
        (choice,) = choice.then or (None,)
        if choice is None:
            return wide, ""
    return choice.rewrite(wide, covariances.whitening()), "whitened, "


def _with_tensors(expression: Expression, factors: Sequence[Sequence[Tensor]]) -> Expression:
    """The expression with the weight and bias of each factor replaced."""
    following = iter(factors)

    def replaced(leaf: Conv) -> Conv:
        weight, bias = next(following)
        return replace(leaf, weight=weight, bias=bias)

    return map_leaves(replaced, expression)
