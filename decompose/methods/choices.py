"""Choices of a plan: the method and rank of one layer, and the choices for its factors.

A combination of methods is a choice whose factors have choices of their own. ::

    {"method": "spatial", "rank": 120, "then": [{"method": "pw_dw", "rank": 2}, null]}

is spatial decomposition, whose first kernel is decoupled and whose second stays. With ``"factors"`` in
place of a method, ``then`` goes on with the factors of a layer that is decomposed already. ::

    {"method": "prune", "rank": 6, "kept": "0-4,7", "of": 8, "writers": ["conv1", "bn1"]}

leaves the layer six of its input channels, and those modules write no others (``pruning``).
``{"method": "pool", "rank": 1}`` runs it once, on the mean of its input (``pooling``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from decompose.algebra import Chain, Conv, Expression, Sum, Whitening, leaves, map_leaves, owned
from decompose.methods import get_method
from decompose.methods.factorisation_cache import FactorisationCache
from decompose.methods.pooling import POOL, pooled
from decompose.methods.pruning import PRUNE, PrunedChannels
from decompose.utils.errors import DecomposeError

FACTORS = "factors"
"""In place of a method: the factors of a layer that is decomposed already; the rank is their number."""

_DEEPEST = 16
"""Methods one inside the other, at most: more than anything gains by."""


@dataclass(frozen=True)
class Choice:
    """The method and rank of one layer.

    Attributes:
        method: the method's name, ``FACTORS``, ``PRUNE`` or ``POOL``.
        rank: its rank; of ``FACTORS``, their number; of ``PRUNE``, that of the channels that stay; of
            ``POOL``, that of the positions.
        then: a choice for each convolution that the method makes, in their order; ``None`` leaves
            one as it is. Empty if all are left.
        pruned: of ``PRUNE``: the channels.

    Examples:
        >>> import decompose
        >>> decompose.Choice("pw_dw", 4).to_dict()
        {'method': 'pw_dw', 'rank': 4}
        >>> choice = decompose.Choice("spatial", 8, then=(decompose.Choice("pw_dw", 2), None))
        >>> choice.label, choice.rank_label
        ('spatial+pw_dw', '8+2,-')
    """

    method: str
    rank: int
    then: tuple[Choice | None, ...] = ()
    pruned: PrunedChannels | None = field(default=None, repr=False)

    def rewrite(self, conv: Conv, whitening: Whitening | None = None) -> Expression:
        """Rewrite a convolution by this choice.

        Args:
            conv: the layer.
            whitening: the coordinates in which the methods are to truncate; the kernel's own by
                default.

        Raises:
            DecomposeError: a method does not exist or cannot take a kernel, a rank is out
                of bounds, or there are more choices than factors.
        """
        if self.method == FACTORS:
            raise DecomposeError("it is not decomposed yet and has no factors to go on with")
        if self.pruned is not None:
            return self.go_on(owned(self.pruned.of(conv)))
        if self.method == POOL:
            return owned(pooled(conv))
        return self._in(whitening, conv, lambda c: get_method(self.method)(c, self.rank))

    def go_on(self, expression: Expression, known: FactorisationCache | None = None) -> Expression:
        """Rewrite the factors that the method made, as ``then`` says.

        Args:
            expression: made by the method.
            known: factorisations of its factors that other choices share.

        Raises:
            DecomposeError: as ``rewrite``.
        """
        if not self.then:
            return expression
        following = iter(self.then)
        rewritten = map_leaves(_follow(following, known or FactorisationCache()), expression)
        if any(choice is not None for choice in following):
            raise DecomposeError(f"{self.method} makes fewer factors than the choice goes on with")
        return _flat(rewritten)

    def followed_by(self, other: Choice, conv: Conv) -> Choice:
        """Join a choice of ``FACTORS`` to the choice that made these.

        Args:
            other: for the factors.
            conv: the layer before it was decomposed; only its shape matters.

        Raises:
            DecomposeError: the choice makes another number of factors.
        """
        following = iter(other.then)
        joined = self._joined(conv.without_weights(), following)
        if next(following, self) is not self or other.rank != len(other.then):
            raise DecomposeError(f"{self.label} makes another number of factors than {other.rank}")
        return joined

    def _joined(self, conv: Conv, following: Iterator[Choice | None]) -> Choice:
        made = replace(self, then=()).rewrite(conv)
        factors, inner = leaves(made), iter(self.then)
        then = tuple(
            next(following, None) if choice is None else choice._joined(factor, following)
            for factor, choice in ((factor, next(inner, None)) for factor in factors)
        )
        return replace(self, then=then if any(then) else ())

    def _in(
        self, whitening: Whitening | None, conv: Conv, method: Callable[[Conv], Expression]
    ) -> Expression:
        if whitening is None:
            return self.go_on(method(conv))
        channels = whitening.reads_channels(self.rewrite(conv.without_weights()))
        made = self.go_on(method(whitening.into(conv, channels=channels)))
        return whitening.back(made, channels=channels)

    @property
    def label(self) -> str:
        """The methods' names, outermost first: ``spatial+pw_dw``."""
        names = [self.method]
        for choice in self.then:
            if choice is not None and choice.label not in names:
                names.append(choice.label)
        return "+".join(names)

    @property
    def rank_label(self) -> str:
        """The ranks in the order of the factors: ``120+2,-``."""
        if not any(self.then):
            return str(self.rank)
        inner = ("-" if choice is None else choice.rank_label for choice in self.then)
        return f"{self.rank}+{','.join(inner)}"

    def to_dict(self) -> dict[str, Any]:
        """Convert the choice to a dictionary for JSON."""
        record: dict[str, Any] = {"method": self.method, "rank": self.rank}
        if any(self.then):
            record["then"] = [None if c is None else c.to_dict() for c in self.then]
        return record if self.pruned is None else {**record, **self.pruned.to_dict()}

    @classmethod
    def from_dict(cls, record: Any, depth: int = 1) -> Choice:
        """Read a choice from a dictionary of JSON.

        Args:
            record: of JSON.
            depth: how many choices deep it lies, itself counted.

        Raises:
            DecomposeError: it is no choice, names a method that does not exist, or goes on without
                end.
        """
        if depth > _DEEPEST:
            raise DecomposeError(f"more than {_DEEPEST} methods lie one inside the other")
        keys = {"method", "rank"}
        more = {"kept", "of", "writers"} if _is_pruning(record) else set()
        if not isinstance(record, dict) or not keys | more <= set(record) <= keys | more | {"then"}:
            raise DecomposeError(
                'must be {"method": NAME, "rank": NUMBER} or have a "then" as well'
            )
        method, rank, then = record["method"], record["rank"], record.get("then", [])
        if not isinstance(rank, int) or isinstance(rank, bool):
            raise DecomposeError(f"rank {rank!r} is no whole number")
        if not isinstance(method, str):
            raise DecomposeError(f"method {method!r} is no name")
        if not isinstance(then, list):
            raise DecomposeError('"then" must be a list, with an entry for each factor')
        pruned = PrunedChannels.from_dict(record) if _is_pruning(record) else None
        if pruned is not None and len(pruned.kept) != rank:
            raise DecomposeError(f"rank {rank}: {len(pruned.kept)} channels are kept")
        if method == POOL and (rank != 1 or then or depth > 1):
            raise DecomposeError(f"{POOL} has rank 1, and stands alone")
        if method not in (FACTORS, PRUNE, POOL):
            get_method(method)
        inner = (None if c is None else cls.from_dict(c, depth + 1) for c in then)
        return cls(method, rank, tuple(inner), pruned)


def _is_pruning(record: Any) -> bool:
    return isinstance(record, dict) and record.get("method") == PRUNE


def _follow(
    choices: Iterator[Choice | None], known: FactorisationCache
) -> Callable[[Conv], Expression]:
    def rewrite(leaf: Conv) -> Expression:
        """Decompose a factor by the next choice, or leave it where there is none."""
        choice = next(choices, None)
        if choice is None:
            return leaf
        return choice.go_on(known(choice.method, leaf, choice.rank), known)

    return rewrite


def _flat(expression: Expression) -> Expression:
    """Flatten chains in chains, and sums of a single part."""
    if isinstance(expression, Conv):
        return expression
    parts = [_flat(part) for part in expression.parts]
    if len(parts) == 1:
        return parts[0]
    if isinstance(expression, Sum):
        return Sum(*parts)
    return Chain(*chain.from_iterable(p.parts if isinstance(p, Chain) else (p,) for p in parts))


@dataclass(frozen=True)
class Note:
    """Predicted cost and error of a choice, and the best of the other methods.

    Attributes:
        cost: of the decomposed layer, in ``unit``.
        unit: ``MACs``, ``parameters`` or ``µs``.
        error: predicted relative squared error of the model's output, from this layer alone.
        runner_up: the best of the other methods that cost no more; empty if none was better than
            leaving the layer.
        runner_up_error: its error.
    """

    cost: int
    unit: str
    error: float
    runner_up: str = ""
    runner_up_error: float | None = None
