"""L-BFGS (Nocedal 1980; Nocedal and Wright 2006, algorithm 7.4) for a few steps on small problems.

Where a step takes a millisecond, what surrounds it counts: on two threads scipy's took five times as long,
since its threads and torch's wait for each other, and the first use of ``torch.optim`` imports torch's
compiler, which takes longer than all steps of a layer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from torch import Tensor

_REMEMBERED = 10
"""Steps whose curvature is known."""

_SUFFICIENT = 1e-4
"""Share of the decrease that the slope promises, of which a step makes some at least (Armijo)."""

_MOST_HALVINGS = 20

Objective = Callable[[Tensor], tuple[float, Tensor]]
"""From a point to the value there and its gradient."""


def minimized(objective: Objective, start: Tensor, steps: int) -> Tensor:
    """Go downhill from a point.

    Args:
        objective: smooth.
        start: ``(n,)``.
        steps: at most.

    Returns:
        The last point, ``(n,)``: never higher than the start.

    Example:
        >>> import torch
        >>> found = minimized(lambda x: (float(x @ x), 2 * x), torch.tensor([3.0, -1.0]), steps=5)
        >>> found.abs().max().item() < 1e-6
        True
    """
    point, (value, gradient) = start, objective(start)
    moves: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=_REMEMBERED)
    for step in range(steps):
        direction = -_scaled_by_curvature(gradient, moves)
        slope = float(gradient @ direction)
        if not slope < 0:
            break
        # Nothing is known of the scale before the first step.
        length = 1.0 if step else min(1.0, 1.0 / float(gradient.abs().sum()))
        for _ in range(_MOST_HALVINGS):
            new = point + length * direction
            new_value, new_gradient = objective(new)
            if new_value <= value + _SUFFICIENT * length * slope:
                break
            length /= 2
        else:
            break
        moved, turned = new - point, new_gradient - gradient
        if (curvature := float(moved @ turned)) > 0:
            moves.append((moved, turned, curvature))
        point, value, gradient = new, new_value, new_gradient
    return point


def _scaled_by_curvature(gradient: Tensor, moves: deque[tuple[Tensor, Tensor, float]]) -> Tensor:
    """The inverse Hessian, as the last moves show it, times the gradient (two-loop recursion)."""
    if not moves:
        return gradient
    found, shares = gradient.clone(), []
    for moved, turned, curvature in reversed(moves):
        share = float(moved @ found) / curvature
        found.sub_(turned, alpha=share)
        shares.append(share)
    _, turned, curvature = moves[-1]
    found.mul_(curvature / float(turned @ turned))
    for (moved, turned, curvature), share in zip(moves, reversed(shares), strict=True):
        found.add_(moved, alpha=share - float(turned @ found) / curvature)
    return found
