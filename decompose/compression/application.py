"""Apply a plan to a model, and repair the result where there are calibration inputs."""

from __future__ import annotations

import warnings

from torch import nn

from decompose.compression.reconstruction.repair import repair_layers_
from decompose.layers.survey import survey
from decompose.models.conversion import set_forms_, substitute
from decompose.models.plans import Plan
from decompose.utils.batches import Batches, InputBatches


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
    if calibrate is None:
        small = substitute(plan, model)
    else:
        inputs = InputBatches(calibrate, model)
        known = survey(model, next(iter(inputs)))
        small = substitute(plan, model, known.layers)
        repairs = repair_layers_(small, known, inputs)
        if left := [layer.name for layer in repairs if layer.how == "left"]:
            names = ", ".join(left)
            warnings.warn(
                f"left as truncated, since repair made them no better: {names}", stacklevel=2
            )
    set_forms_(small, plan.forms)
    return small
