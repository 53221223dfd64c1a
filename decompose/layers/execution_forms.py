"""Forms of a decomposed layer: equal ways to run it, as branches, merged or dense.

They compute the same at the same number of MACs (but for ``dense``), and take different times, each the
fastest somewhere: which one depends on the engine, the machine and the shape, so it is measured
(``tuning``) or set by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from decompose.algebra import Expression, compose, merged
from decompose.utils.errors import DecomposeError

DEFAULT_FORM = "branches"


@dataclass(frozen=True)
class Form:
    """A way to run an expression.

    Attributes:
        title: its description.
        rewrite: the expression that is run instead.
        in_pieces: whether eager torch, on a CPU and without gradients, may run it on images or strips
            of rows whose maps fit the cache (``cache_blocking``).
    """

    title: str
    rewrite: Callable[[Expression], Expression]
    in_pieces: bool


def _as_made(expression: Expression) -> Expression:
    return expression


FORMS: Mapping[str, Form] = {
    "branches": Form("as the method made it", _as_made, True),
    "merged": Form("like branches as one wide chain", merged, True),
    "branches-whole": Form("branches, never in pieces", _as_made, False),
    "merged-whole": Form("merged, never in pieces", merged, False),
    "dense": Form("multiplied back into one convolution", compose, False),
}
"""By name; ``dense`` is for good, since the factors cannot be read back from it."""


def get_form(name: str) -> Form:
    """Get a form by its name.

    Raises:
        DecomposeError: there is none.
    """
    if name not in FORMS:
        raise DecomposeError(f"form {name!r} does not exist; there are: {', '.join(FORMS)}")
    return FORMS[name]
