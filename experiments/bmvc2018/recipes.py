"""From a method, or a combination of methods, and a strength to what is done to each layer.

A strength lies between 0 and 1. A method alone makes a layer's weights ``times`` fewer, 1 at
strength 0 and ``MOST_TIMES_FEWER`` at 1; in a combination each has the rank that it would have alone.
Channel pruning keeps ``times^-1/2`` of the channels of conv1 to conv3, ``DEEPER`` times that share of
conv4's and all of conv5's, as He et al. 2017 set it (arXiv 1707.06168, section 4.1.1). Network
decoupling keeps a share of the energy, the same in each layer: alone its strength sets the share; at
the end of a combination it is ``Setting.inner_energy``.
"""

from __future__ import annotations

from collections.abc import Mapping

from config import DEEPER, ENERGY_LEFT_OUT, MASK, MOST_TIMES_FEWER

from decompose.algebra import Conv
from decompose.methods import get_method
from decompose.treatments import Treatment
from decompose.wishes import rank_for_ratio

FIRST = "conv1_1"
"""Its three input channels leave nothing to decompose; its filters can be pruned."""


def treatments(
    recipe: str, strength: float, convs: Mapping[str, Conv], inner_energy: float
) -> dict[str, Treatment]:
    """What is done to each layer.

    Args:
        recipe: ``ND``, or the paper's short names joined by ``+``, ``ND`` last if at all.
        strength: from 0 to 1.
        convs: the layers by the paper's names, in their order.
        inner_energy: share of the energy that network decoupling keeps in a combination.
    """
    methods = recipe.split("+")
    if methods == ["ND"]:
        low, high = ENERGY_LEFT_OUT
        energy = 1 - low * (high / low) ** strength
        return {name: Treatment(energy=energy) for name in convs if name not in MASK}
    times = MOST_TIMES_FEWER**strength
    before = dict(zip(list(convs)[1:], convs, strict=False))
    found = {}
    for name, conv in convs.items():
        if name == FIRST:
            continue
        decoupled = "ND" in methods and name not in MASK
        found[name] = Treatment(
            num_inputs=_kept(before[name], conv, times) if "CP" in methods else None,
            spatial=_rank("spatial", conv, times) if "SD" in methods else None,
            channel=_rank("channel", conv, times) if "CD" in methods else None,
            energy=inner_energy if decoupled else None,
        )
    return found


def _rank(method: str, conv: Conv, times: float) -> int:
    return rank_for_ratio(get_method(method), conv, times)


def _kept(producer: str, conv: Conv, times: float) -> int | None:
    """Input channels that are kept; ``None`` where all are."""
    share = times**-0.5
    if producer.startswith("conv4"):
        share = min(1.0, DEEPER * share)
    kept = 1 if producer.startswith("conv5") else share
    return None if kept >= 1 else max(1, round(kept * conv.in_channels))
