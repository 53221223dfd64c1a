"""Apply a plan to a model, and repair the result where there are calibration inputs."""

from __future__ import annotations

import warnings

from torch import nn

from decompose.compression.reconstruction.repair import repair_
from decompose.models.conversion import set_forms_, substitute
from decompose.models.plans import Plan
from decompose.utils.batches import Batches


def apply(plan: Plan, model: nn.Module, *, calibrate: Batches | None = None) -> nn.Module:
    """Rewrite the layers of a network as a plan says.

    Args:
        plan: the choices.
        model: any module; left as it was. It may hold a layer in several places: the rewritten
            one stands in all of them.
        calibrate: unlabelled inputs to repair the layers on (``repair.repair_``): a tensor, or an
            iterable of batches. Without them nothing but the weights is used.

    Returns:
        A new network. Its layers keep device, dtype, memory format, mode and requires_grad.

    Raises:
        DecomposeError: the plan names a layer that the network lacks or that cannot be swapped,
            or a rank out of bounds, or weights are not finite.
    """
    small = substitute(plan, model)
    if calibrate is not None:
        repairs = repair_(small, model, calibrate)
        if left := [layer.name for layer in repairs if layer.how == "left"]:
            names = ", ".join(left)
            warnings.warn(
                f"left as truncated, since repair made them no better: {names}", stacklevel=2
            )
    set_forms_(small, plan.forms)
    return small
