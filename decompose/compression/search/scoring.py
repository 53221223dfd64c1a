"""Cost of every layer's candidates, and the error each would cause in the model's output.

The error is predicted from statistics of the layers (``error_prediction``), then corrected by the error
that the output shows when one layer at a time is decomposed (``sensitivity``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from decompose import algebra
from decompose.algebra import Conv, Expression, Whitening
from decompose.compression.covariances import AxisCovariances, is_whitenable
from decompose.compression.effort import DEFAULT_EFFORT, Effort, effort_of
from decompose.compression.search.candidates import DEFAULT_METHODS, Candidate, find_candidates
from decompose.compression.search.error_prediction import OutputError
from decompose.compression.search.factor_candidates import find_factor_candidates
from decompose.compression.search.pooling_candidates import find_pooling_candidates
from decompose.compression.search.pruning_candidates import find_pruning_candidates
from decompose.compression.search.quick_truncations import QuickTruncations
from decompose.compression.search.sensitivity import Sensitivity, measuring_sensitivity
from decompose.compression.statistics import Statistics, gather
from decompose.data.synthetic import synthetic_inputs
from decompose.layers.costs import macs_counters
from decompose.layers.dependencies import HiddenChannels, find_hidden_channels
from decompose.layers.global_pooling import find_averaged
from decompose.layers.survey import Survey, survey
from decompose.methods.combinations import Combination, parse_combination
from decompose.methods.pooling import POOL
from decompose.methods.pruning import PRUNE
from decompose.models.onnx.module import OnnxModule
from decompose.utils.batches import Batches, Example, first
from decompose.utils.errors import DecomposeError
from decompose.utils.progress import track

_NUM_SYNTHETIC = 6


Cost = Callable[[Expression], int]
"""From an expression instead of a layer to its cost."""


def measure(
    model: nn.Module,
    example: Example,
    images: Batches,
    *,
    methods: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    effort: str = DEFAULT_EFFORT,
) -> Statistics:
    """Gather a model's statistics on images once, for any number of budgets.

    Args:
        model: any module; left as it was.
        example: one batch, as for ``plan``.
        images: unlabelled inputs, a tensor ``(batch, ...)`` in the model's dtype, or an iterable of
            batches.
        methods: methods and combinations that budgets will choose from.
        skip: layers to leave, as for ``plan``.
        effort: how long it may take: ``quick``, ``normal`` or ``thorough``.

    Returns:
        The statistics, which ``plan`` takes as ``calibrate``; ``save`` keeps them in a file.

    Raises:
        DecomposeError: there are no inputs, the model does not take them, or there is no such
            effort.

    Examples:
        >>> import torch
        >>> import decompose
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.Conv2d(16, 16, 3)).eval()
        >>> images = torch.randn(4, 8, 16, 16)
        >>> statistics = decompose.measure(model, images[:1], images)
        >>> for share in (0.75, 0.5):
        ...     plan = decompose.plan(model, images[:1], macs=share, calibrate=statistics)
    """
    known = survey(model, example, skip)
    known.warn_of_readers(stacklevel=2)
    costs = macs_counters(known.shapes, known.shapes)
    names = methods or DEFAULT_METHODS
    return _score_on(known, images, names, costs, effort_of(effort), repaired=True)[1]


def score(
    known: Survey,
    methods: Sequence[str],
    costs: Mapping[str, Cost],
    calibrate: Batches | Statistics | None,
    effort: Effort,
    multiple: int = 1,
) -> dict[str, list[Candidate]]:
    """Find the candidates of every layer, with their predicted errors of the model's output.

    Args:
        known: the survey of the model.
        methods: methods and combinations to choose from; channels are pruned only where layers are
            repaired.
        costs: by layer, from an expression instead of it to its cost; of all layers that are reached.
        calibrate: inputs, or the statistics that ``measure`` took from them; synthetic ones by default,
            and no repair is then supposed.
        effort: its settings.
        multiple: of which the channels between factors are to be a multiple.

    Raises:
        DecomposeError: the statistics are those of another model, or there are no inputs.
    """
    if isinstance(calibrate, Statistics):
        _require_same_layers(known.convs, calibrate)
        whitenings = _whitenings(known.convs, calibrate)
        allowed = _Methods.of(methods, known, repaired=True)
        candidates = _LayerCandidates(known, allowed, costs, calibrate, whitenings, multiple)
        scored = {name: candidates.of(name)[0] for name in _tracked(known)}
        return _scaled(scored, calibrate.corrections)
    images = calibrate
    if images is None:
        images = synthetic_inputs(first(known.example), known.model, num=_NUM_SYNTHETIC)
    repaired = calibrate is not None
    scored, statistics = _score_on(
        known, images, methods, costs, effort, multiple, repaired=repaired
    )
    return _scaled(scored, statistics.corrections)


def _score_on(
    known: Survey,
    images: Batches,
    methods: Sequence[str],
    costs: Mapping[str, Cost],
    effort: Effort,
    multiple: int = 1,
    *,
    repaired: bool,
) -> tuple[dict[str, list[Candidate]], Statistics]:
    """The candidates of every layer, and the statistics with their corrections."""
    allowed = _Methods.of(methods, known, repaired=repaired)
    # Gone through twice.
    images = list(images) if isinstance(images, Iterator) else images
    statistics = gather(known.model, images, known.chosen(known.convs))
    whitenings = _whitenings(known.convs, statistics) if repaired else {}
    scored: dict[str, list[Candidate]] = {}
    corrections: dict[str, dict[str, float]] = {}
    candidates = _LayerCandidates(known, allowed, costs, statistics, whitenings, multiple)
    with measuring_sensitivity(known, images, effort, repaired=repaired) as sensitivity:
        for name in _tracked(known):
            scored[name], corrections[name] = candidates.corrected(name, sensitivity)
    corrections = {name: found for name, found in corrections.items() if found}
    if not any(any(found.values()) for found in corrections.values()):
        # An output that nothing moves, such as a class, has no sensitivity.
        corrections = {}
    return scored, replace(statistics, corrections=corrections)


@dataclass(frozen=True, eq=False)
class _Methods:
    """What layers may become.

    Attributes:
        combinations: methods and combinations for single layers.
        hidden: channels that may be pruned, by the layer that reads them.
        averaged: layers before which may be pooled.
    """

    combinations: Sequence[Combination]
    hidden: Mapping[str, HiddenChannels]
    averaged: Collection[str]

    @classmethod
    def of(cls, names: Sequence[str], known: Survey, *, repaired: bool) -> _Methods:
        """Look up methods, and the layers that those of several layers may take."""
        # Of an ONNX model only nodes of decomposed layers are written anew.
        is_graph = isinstance(known.model, OnnxModule)
        return cls(
            [parse_combination(name) for name in names if name not in (PRUNE, POOL)],
            find_hidden_channels(known) if PRUNE in names and repaired and not is_graph else {},
            find_averaged(known) - known.decomposed.keys()
            if POOL in names and not is_graph
            else (),
        )


def _whitenings(convs: Mapping[str, Conv], statistics: Statistics) -> dict[str, Whitening]:
    """The coordinates in which repair may truncate."""
    found = {
        name: AxisCovariances.of_patches(conv, statistics.layers[name])
        for name, conv in convs.items()
        if name in statistics.layers and is_whitenable(conv)
    }
    return {name: marginals.whitening() for name, marginals in found.items()}


def _tracked(known: Survey) -> Iterable[str]:
    """The names of the layers, with progress."""
    return track(known.convs, "scoring candidates")


@dataclass(frozen=True, eq=False)
class _LayerCandidates:
    """Candidates of one layer at a time; the factors of a large layer are gone before the next's.

    Attributes:
        known: the survey of the model.
        methods: to choose from.
        costs: by layer, from an expression instead of it to its cost.
        statistics: of the layers.
        whitenings: the coordinates in which repair may truncate, by layer.
        multiple: of which the channels between factors are to be a multiple.
    """

    known: Survey
    methods: _Methods
    costs: Mapping[str, Cost]
    statistics: Statistics
    whitenings: Mapping[str, Whitening]
    multiple: int

    def of(self, name: str) -> tuple[list[Candidate], QuickTruncations]:
        """The candidates of a layer, and its truncations."""
        layer, whitening = self.statistics.layers.get(name), self.whitenings.get(name)
        wide = algebra.widened(self.known.convs[name])
        assert isinstance(wide, Conv)
        error = None if layer is None else OutputError(wide, layer, whitening)
        factors = self.known.factors.get(name)
        factors = None if factors is None else algebra.widened(factors)
        truncations = QuickTruncations(wide, whitening, factors)
        combinations, cost, multiple = self.methods.combinations, self.costs[name], self.multiple
        found = find_candidates(truncations, combinations, cost, error, multiple)
        if factors is not None and error is not None:
            found += find_factor_candidates(factors, combinations, cost, error, multiple)
        if error is not None and name in self.methods.averaged:
            found += find_pooling_candidates(wide, cost, error)
        if layer is not None and name in self.methods.hidden:
            hidden = self.methods.hidden[name]
            found += find_pruning_candidates(hidden, self.known, layer, self.costs, multiple)
        return found, truncations

    def corrected(
        self, name: str, sensitivity: Sensitivity
    ) -> tuple[list[Candidate], dict[str, float]]:
        """The candidates of a layer, and the corrections of their errors by the output's."""
        found, truncations = self.of(name)
        if name not in self.statistics.layers:
            return found, {}
        return found, sensitivity.corrections(name, found, truncations)


def _scaled(
    scored: Mapping[str, Sequence[Candidate]], corrections: Mapping[str, Mapping[str, float]]
) -> dict[str, list[Candidate]]:
    return {
        name: [
            replace(o, error=corrections.get(name, {}).get(o.label, 1.0) * o.error)
            if o.error
            else o
            for o in found
        ]
        for name, found in scored.items()
    }


def _require_same_layers(convs: Mapping[str, Conv], statistics: Statistics) -> None:
    for name, conv in convs.items():
        layer = statistics.layers.get(name)
        if layer is not None and layer.mean.shape != (conv.groups, conv.weight[0].numel()):
            raise DecomposeError(f"layer {name}: the statistics are those of another model")
