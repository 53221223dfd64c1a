"""From methods and their strengths to what is done to each layer.

At strength s a method makes a layer's weights ``MOST_TIMES_FEWER^s`` times fewer, 1 at strength 0.
Channel pruning keeps that number's inverse root of the channels of conv1 to conv3, ``DEEPER`` times
that share of conv4's and all of conv5's, as He et al. 2017 set it (arXiv 1707.06168, section 4.1).
In a combination a method has the rank that it would have alone at its strength. Network decoupling
keeps a share of each kernel's energy, the same in every layer.
"""

from __future__ import annotations

from collections.abc import Mapping

from decompose.algebra import Conv
from decompose.compression.layerwise.pipeline import LayerSpec
from decompose.methods import get_method
from decompose.methods.ranks import rank_for_ratio
from experiments.bmvc2018.config import DEEPER, ENERGY_LEFT_OUT, MASK, MOST_TIMES_FEWER

FIRST = "conv1_1"
"""Its three input channels leave nothing to decompose; its filters can be pruned."""


def treatments(
    strengths: Mapping[str, float], energy: float | None, convs: Mapping[str, Conv]
) -> dict[str, LayerSpec]:
    """What is done to each layer.

    Args:
        strengths: from 0 to 1, by the methods' short names, ``CD``, ``SD`` and ``CP``.
        energy: share of the energy that network decoupling keeps; ``None`` where it has no part.
        convs: the layers by the paper's names, in their order.
    """
    times = {method: MOST_TIMES_FEWER**strength for method, strength in strengths.items()}
    producers = dict(zip(list(convs)[1:], convs, strict=False))
    found = {}
    for name, conv in convs.items():
        if name == FIRST:
            continue
        found[name] = LayerSpec(
            num_inputs=_num_kept(producers[name], conv, times["CP"]) if "CP" in times else None,
            spatial=_rank("spatial", conv, times["SD"]) if "SD" in times else None,
            channel=_rank("channel", conv, times["CD"]) if "CD" in times else None,
            energy=None if name in MASK else energy,
        )
    return found


def energy_kept(strength: float) -> float:
    """By network decoupling alone, at a strength from 0 to 1."""
    low, high = ENERGY_LEFT_OUT
    return 1 - low * (high / low) ** strength


def _rank(method: str, conv: Conv, times: float) -> int:
    return rank_for_ratio(get_method(method), conv, times)


def _num_kept(producer: str, conv: Conv, times: float) -> int | None:
    """Input channels that are kept; ``None`` where all are."""
    if producer.startswith("conv5"):
        return None
    share = times**-0.5 * (DEEPER if producer.startswith("conv4") else 1)
    return None if share >= 1 else max(1, round(share * conv.in_channels))
