"""From a network and a wish to a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from decompose.algebra import Conv, macs
from decompose.errors import DecomposeError
from decompose.layers import find_convolutions, obstacle, trace_shapes
from decompose.methods import DEFAULT_METHOD, Method, get_method
from decompose.modules import AnyConv, to_conv
from decompose.plans import Choice, Plan

RankRule = Callable[[str, Conv], int | None]
"""From a layer's name and convolution to its rank, or ``None`` for a layer to leave dense."""


def plan(
    model: nn.Module,
    example: Tensor,
    *,
    method: str = DEFAULT_METHOD,
    rank: int | Mapping[str, int] | None = None,
    energy: float | None = None,
    skip: Sequence[str] = (),
) -> Plan:
    """Choose a rank for every convolution of a network, from its weights alone.

    Pointwise and depthwise convolutions stay as they are, and so does a layer whose rewriting
    would not cost fewer MACs, unless ``rank`` names it in full.

    Args:
        model: any module; left as it was.
        example: one input tensor with a batch axis; its sizes tell what a layer costs.
        method: the method's name (``decompose.methods.METHODS``).
        rank: number of terms. One for all layers, or one for each name or pattern
            (``{"conv4_*": 5, "conv4_1": 6}``: the last that fits counts, other layers stay
            dense). It must be within the bound of some layer; the others take their own bound.
        energy: share of the energy that each layer keeps, in (0, 1]; instead of ``rank``.
        skip: names of layers, or of modules that hold them, or patterns, to leave dense.

    Returns:
        The plan; its ``dense`` part says why each other convolution was left.

    Raises:
        DecomposeError: neither or both of ``rank`` and ``energy``, a rank out of bounds, a name
            that fits no layer, weights that are not finite, or a method that does not exist.
    """
    chosen = get_method(method)
    if (rank is None) == (energy is None):
        raise DecomposeError("give a rank or an energy, and not both")
    modules = find_convolutions(model)
    if not modules:
        raise DecomposeError("the network has no convolution to decompose")
    convs = {name: to_conv(module) for name, module in modules.items()}
    ranks = {"*": rank} if isinstance(rank, int) else rank or {}
    for pattern in (*skip, *ranks):
        _require_match(convs, pattern)
    for pattern, value in ranks.items():
        _require_within_bound(chosen, convs, pattern, value)
    rank_of = _by_name(chosen, ranks) if energy is None else _by_energy(chosen, energy)
    shapes = trace_shapes(model, example)

    layers: dict[str, Choice] = {}
    dense: dict[str, str] = {}
    for name, conv in convs.items():
        reason = _reason_to_skip(name, modules[name], skip, reached=name in shapes)
        wanted = None if reason else rank_of(name, conv)
        if wanted is None:
            dense[name] = reason or "no rank given"
            continue
        sizes = [shape[-conv.geometry.num_axes :] for shape in shapes[name]]
        if name in ranks or _saves_macs(chosen, conv, wanted, sizes):
            layers[name] = Choice(method, wanted)
        else:
            dense[name] = f"{method} of rank {wanted} costs no less"
    return Plan(layers, dense)


def _saves_macs(method: Method, conv: Conv, rank: int, sizes: Sequence[tuple[int, ...]]) -> bool:
    candidate = method(conv.without_weights(), rank)
    return sum(macs(candidate, size) for size in sizes) < sum(macs(conv, size) for size in sizes)


def _by_energy(method: Method, threshold: float) -> RankRule:
    return lambda _, conv: method.rank_for_energy(conv, threshold)


def _by_name(method: Method, ranks: Mapping[str, int]) -> RankRule:
    def rank_of(name: str, conv: Conv) -> int | None:
        fitting = [rank for pattern, rank in ranks.items() if _matches(name, pattern)]
        return min(fitting[-1], method.max_rank(conv)) if fitting else None

    return rank_of


def _reason_to_skip(
    name: str, module: AnyConv, skip: Sequence[str], *, reached: bool
) -> str | None:
    conv = to_conv(module)
    if any(_matches(name, pattern) for pattern in skip):
        return "skipped by name"
    if conv.is_pointwise:
        return "pointwise"
    if conv.is_depthwise:
        return "depthwise"
    if not reached:
        return "not reached by the example"
    return obstacle(module)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def _require_match(convs: Mapping[str, Conv], pattern: str) -> None:
    if not any(_matches(name, pattern) for name in convs):
        raise DecomposeError(
            f"{pattern}: no convolution has that name; there are: {', '.join(convs)}"
        )


def _require_within_bound(
    method: Method, convs: Mapping[str, Conv], pattern: str, rank: int
) -> None:
    bound = max(method.max_rank(conv) for name, conv in convs.items() if _matches(name, pattern))
    if not 1 <= rank <= bound:
        where = "" if pattern == "*" else f" for {pattern}"
        raise DecomposeError(
            f"rank {rank} of {method.name}{where} is out of bounds: it is 1 to {bound}"
        )
