"""Rules that set the rank of one method: by number, by energy, or by ratio of weights."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from math import gcd

from decompose.algebra import Conv, Expression
from decompose.methods import Method
from decompose.methods.choices import Choice
from decompose.methods.combinations import Combination, combine, num_weights
from decompose.utils.errors import DecomposeError

Rule = Callable[[str, Conv], Choice | str]
"""From a layer's name and convolution to a choice, or to the reason why there is none."""


def rank_rule(
    combination: Combination,
    ranks: Mapping[str, int],
    rank_of: Callable[[str], int | None],
    energy: float | None,
    ratio: float | None,
    multiple: int = 1,
) -> Rule:
    """Make a rule that sets ranks by number, by energy or by ratio.

    A single method takes one of them. Of a combination, ``energy`` or ``ratio`` sets the outer rank
    and a number the inner ones, as Guo et al. 2018 combine network decoupling with others.

    Args:
        combination: the methods, outermost first.
        ranks: the ranks asked for, by pattern; empty if none was.
        rank_of: which of them a layer has, by its name.
        energy: share of the energy to keep, in (0, 1].
        ratio: how many times fewer weights.
        multiple: of which the channels between factors are to be a multiple: an energy is then held at
            least, a ratio too, and a layer without such a rank stays dense.

    Raises:
        DecomposeError: too few or too many of them are given, or a rank is no multiple.
    """
    given = [bool(ranks), energy is not None, ratio is not None]
    if len(combination) == 1 and sum(given) != 1:
        raise DecomposeError("give one of rank, energy or ratio")
    if len(combination) > 1 and (not ranks or sum(given) != 2):
        raise DecomposeError("of a combination, give the ratio or energy, and the inner rank")
    outer = combination[0]
    if len(combination) == 1 and outer.rank_is_width:
        for rank in ranks.values():
            if rank % multiple:
                raise DecomposeError(f"rank {rank} is no multiple of {multiple}")

    def rule(name: str, conv: Conv) -> Choice | str:
        """The choice for a layer of a full name, or the reason why it stays dense."""
        if reason := outer.why_not(conv):
            return reason
        rank = rank_of(name)
        if ranks and rank is None:
            return "no rank given"
        if energy is not None:
            outer_rank = outer.rank_for_energy(conv, energy)
        elif ratio is not None:
            outer_rank = rank_for_ratio(outer, conv, ratio)
        else:
            assert rank is not None
            outer_rank = min(rank, outer.max_rank(conv))
        step = rank_step(outer, conv, multiple)
        # An energy is held at least; of weights there are to be no more.
        outer_rank = (
            -(-outer_rank // step) * step if energy is not None else outer_rank // step * step
        )
        if not 1 <= outer_rank <= outer.max_rank(conv):
            return f"no rank that is asked for has a multiple of {multiple} channels"
        return combine(combination, conv, outer_rank, rank or 0)

    return rule


def rank_step(method: Method, conv: Conv, multiple: int) -> int:
    """The least rank whose channels between factors, of all groups together, are a multiple.

    Args:
        method: where its rank is a number of terms, any rank will do.
        conv: the layer; only its groups matter.
        multiple: such as 8.
    """
    return multiple // gcd(multiple, conv.groups) if method.rank_is_width else 1


def rank_for_ratio(method: Method, conv: Conv, ratio: float) -> int:
    """The largest rank with which a layer has ``ratio`` times fewer weights, or 1.

    For spatial decomposition that is floor(I O k_h k_w / (ratio (k_h I + k_w O))), and for channel
    decomposition floor(I O k_h k_w / (ratio (k_h k_w I + O))), as Guo et al. 2018 set them.

    Raises:
        DecomposeError: the ratio is not positive.
    """
    if not ratio > 0:
        raise DecomposeError(f"ratio {ratio} is out of bounds: it must be positive")
    rewrite = method.prepare(conv.without_weights())
    return largest_rank(rewrite, method.max_rank(conv), conv.weight.numel() / ratio)


def largest_rank(rewrite: Callable[[int], Expression], bound: int, allowed_weights: float) -> int:
    """The largest rank whose expression has no more weights than allowed, or 1.

    Args:
        rewrite: from a rank to an expression, without weights for speed; more for a higher rank.
        bound: the largest rank there is.
        allowed_weights: biases apart.
    """
    ranks = range(1, bound + 1)
    return max(1, bisect_right(ranks, allowed_weights, key=lambda rank: num_weights(rewrite(rank))))
