"""The strongest form of a method whose drop is within bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_ROUNDING = 1e-9
"""A drop is a difference of shares of whole pictures."""

Point = Mapping[str, Any]
"""What was measured of one network; ``drop`` is what the bisection looks at, as a share."""


def bisect(measure: Callable[[float], Point], drop: float, num_steps: int) -> Point | None:
    """Halve the range of strengths, so that the drop is the largest within bounds.

    Args:
        measure: from a strength between 0 and 1 to what was measured there; the drop should grow.
        drop: the most that may be lost, as a share.
        num_steps: halvings.

    Returns:
        The point of the greatest strength found whose drop is no more; ``None`` if there is none.
    """
    low, high, best = 0.0, 1.0, None
    for _ in range(num_steps):
        middle = (low + high) / 2
        point = measure(middle)
        if point["drop"] <= drop + _ROUNDING:
            low, best = middle, point
        else:
            high = middle
    return best
