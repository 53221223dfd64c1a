"""Methods applied inside one another: ``spatial+pw_dw``."""

from __future__ import annotations

from collections.abc import Sequence

from decompose.algebra import Conv, Expression, leaves
from decompose.methods import Method, get_method
from decompose.methods.choices import Choice

Combination = Sequence[Method]
"""Methods that apply one inside the other, outermost first."""


def parse_combination(text: str) -> Combination:
    """Read a method's name, or several that apply one inside the other: ``spatial+pw_dw``.

    Raises:
        DecomposeError: a method does not exist.
    """
    return tuple(get_method(name) for name in text.split("+"))


def num_weights(expression: Expression) -> int:
    """Weights of an expression, biases apart."""
    return sum(leaf.weight.numel() for leaf in leaves(expression))


def combine(recipe: Combination, conv: Conv, rank: int, inner_rank: int) -> Choice:
    """Apply a method, and the next ones of a recipe to the factors that they make smaller.

    Args:
        recipe: the methods, outermost first.
        conv: the layer; only its shape matters.
        rank: of the outermost method.
        inner_rank: of the others; each factor takes its own bound where that is less.
    """
    method, inner = recipe[0], recipe[1:]
    if not inner:
        return Choice(method.name, rank)
    factors = leaves(method(conv.without_weights(), rank))
    then = tuple(_smaller(inner, factor, inner_rank) for factor in factors)
    return Choice(method.name, rank, then if any(then) else ())


def _smaller(recipe: Combination, conv: Conv, rank: int) -> Choice | None:
    """The recipe for a factor, or ``None`` where it makes nothing smaller."""
    method = recipe[0]
    if method.why_not(conv) is not None:
        return None
    choice = combine(recipe, conv, min(rank, method.max_rank(conv)), rank)
    return choice if num_weights(choice.rewrite(conv)) < conv.weight.numel() else None
