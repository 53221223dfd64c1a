"""Combinations: methods applied to the factors of others, such as ``spatial+pw_dw``."""

from __future__ import annotations

from collections.abc import Sequence

from decompose.algebra import Conv, Expression, leaves
from decompose.methods import Method, get_method
from decompose.methods.choices import Choice
from decompose.methods.factorisation_cache import FactorisationCache

Combination = Sequence[Method]
"""Methods that apply one inside the other, outermost first."""


def parse_combination(text: str) -> Combination:
    """Parse the name of a method or of a combination, such as ``spatial+pw_dw``.

    Raises:
        DecomposeError: a method does not exist.
    """
    return tuple(get_method(name) for name in text.split("+"))


def num_weights(expression: Expression) -> int:
    """Number of weights of an expression, without biases."""
    return sum(leaf.weight.numel() for leaf in leaves(expression))


def combine(
    combination: Combination,
    conv: Conv,
    rank: int,
    inner_rank: int,
    known: FactorisationCache | None = None,
) -> Choice:
    """Choose a method, and the next ones of a combination for the factors that they make smaller.

    Args:
        combination: the methods, outermost first.
        conv: the layer; only its shape matters.
        rank: of the outermost method.
        inner_rank: of the others; each factor takes its own bound where that is less.
        known: factorisations of its shape that other choices share; ``conv`` is then on the meta device.
    """
    method, inner = combination[0], combination[1:]
    if not inner:
        return Choice(method.name, rank)
    if known is None:
        conv, known = conv.without_weights(), FactorisationCache()
    factors = leaves(known(method.name, conv, rank))
    then = tuple(_smaller(inner, factor, inner_rank, known) for factor in factors)
    return Choice(method.name, rank, then if any(then) else ())


def _smaller(
    combination: Combination, conv: Conv, rank: int, known: FactorisationCache
) -> Choice | None:
    """Combine for a factor; ``None`` where that makes nothing smaller."""
    method = combination[0]
    if method.why_not(conv) is not None:
        return None
    choice = combine(combination, conv, min(rank, method.max_rank(conv)), rank, known)
    made = choice.go_on(known(choice.method, conv, choice.rank), known)
    return choice if num_weights(made) < conv.weight.numel() else None
