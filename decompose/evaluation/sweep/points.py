"""Points of a sweep: the budgets that a model is compressed to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decompose.methods.combinations import parse_combination
from decompose.utils.errors import DecomposeError

BUDGETS = ("macs", "params", "latency")


@dataclass(frozen=True)
class SweepPoint:
    """One budget of a sweep.

    Attributes:
        budget: ``macs``, ``params`` or ``latency``.
        share: of it, to keep, in (0, 1].
        on_images: whether it is planned and repaired on images; on synthetic inputs otherwise.
        methods: that it may choose from; the default ones if empty.
    """

    budget: str
    share: float
    on_images: bool
    methods: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the point's files, without an ending.

        >>> SweepPoint("macs", 0.5, False, ("spatial", "pw_dw")).name
        'macs-0.5-synthetic-spatial,pw_dw'
        """
        return f"{self.budget}-{self.share:g}-{self.family}"

    @property
    def family(self) -> str:
        """All but the budget: points of one family lie on one line of a plot."""
        inputs = "images" if self.on_images else "synthetic"
        return "-".join([inputs, *([",".join(self.methods)] if self.methods else [])])


def sweep_points(
    shares: Mapping[str, Sequence[float]],
    *,
    on_images: Sequence[bool] = (False,),
    methods: Sequence[Sequence[str]] = ((),),
) -> list[SweepPoint]:
    """List the points of a sweep: every share, with and without images, by every set of methods.

    Args:
        shares: by budget.
        on_images: whether images are used; both are tried where both are given.
        methods: sets of methods; an empty one stands for the default ones.

    Raises:
        DecomposeError: there are none, one is given twice, or one is out of bounds.
    """
    for names in methods:
        for name in names:
            parse_combination(name)
    points = [
        SweepPoint(budget, share, with_images, tuple(names))
        for names in methods
        for with_images in on_images
        for budget, every in shares.items()
        for share in every
    ]
    if not points:
        raise DecomposeError(f"a sweep needs shares of {', '.join(BUDGETS)}")
    for point in points:
        if point.budget not in BUDGETS:
            raise DecomposeError(f"budget {point.budget!r}: choose of {', '.join(BUDGETS)}")
        if not 0 < point.share <= 1:
            raise DecomposeError(
                f"{point.budget} {point.share:g} is out of bounds: it lies in (0, 1]"
            )
    if len({point.name for point in points}) < len(points):
        raise DecomposeError("a budget of the sweep is given twice")
    return points
