"""Apply a plan to a model, and repair the result where there are calibration images."""

from __future__ import annotations

import warnings

from torch import nn

from decompose.compression.effort import DEFAULT_EFFORT, effort_of
from decompose.compression.reconstruction.repair import repair_layers_
from decompose.layers.survey import survey
from decompose.models.conversion import set_forms_, substitute
from decompose.models.plans import Plan
from decompose.utils.batches import Batches, InputBatches


def apply(
    plan: Plan,
    model: nn.Module,
    *,
    calibrate: Batches | None = None,
    effort: str = DEFAULT_EFFORT,
) -> nn.Module:
    """Rewrite the layers of a model as a plan says.

    Args:
        plan: the choices.
        model: any module; left as it was. Where it calls one layer under several names, the
            rewritten layer replaces it under all of them.
        calibrate: unlabelled inputs to repair the layers on: a tensor ``(batch, ...)`` in the model's
            dtype, or an iterable of batches. Without them nothing but the weights is used.
        effort: how long the repair may take: ``quick``, ``normal`` or ``thorough``.

    Returns:
        A new model. Its layers keep device, dtype, memory format, mode and requires_grad.

    Raises:
        DecomposeError: the plan names a layer that the model lacks or that cannot be swapped,
            or a rank out of bounds, or weights are not finite, or there is no such effort.

    Examples:
        >>> import torch
        >>> import decompose
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 16, 3)).eval()
        >>> images = torch.rand(2, 3, 16, 16)
        >>> plan = decompose.plan(model, images[:1], method="pw_dw", rank={"1": 9})
        >>> small = decompose.apply(plan, model)
        >>> torch.allclose(small(images), model(images), atol=1e-4)  # nine terms are exact
        True
    """
    settings = effort_of(effort)
    if calibrate is None:
        small = substitute(plan, model)
    else:
        inputs = InputBatches(calibrate, model)
        known = survey(model, next(iter(inputs)))
        small = substitute(plan, model, known.layers)
        repairs = repair_layers_(small, known, inputs, settings)
        if left := [layer.name for layer in repairs if layer.how == "left"]:
            names = ", ".join(left)
            warnings.warn(
                f"left as truncated, since repair made them no better: {names}", stacklevel=2
            )
    set_forms_(small, plan.forms)
    return small
