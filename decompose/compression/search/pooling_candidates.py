"""The candidate of a layer that runs once, on the mean of its input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from decompose.algebra import Conv, Expression
from decompose.compression.search.candidates import Candidate
from decompose.compression.search.error_prediction import OutputError
from decompose.methods.choices import Choice
from decompose.methods.pooling import POOL, can_pool, pooled


def find_pooling_candidates(
    conv: Conv, cost: Callable[[Expression], int], error: OutputError
) -> list[Candidate]:
    """Find the candidate that pools before a layer; none where that is not possible or saves nothing.

    Its error is predicted as if all were lost that varies, within and between inputs. That says no more
    than the unit of the correction, which is measured on the output (``sensitivity``).

    Args:
        conv: a layer whose outputs are averaged (``layers.global_pooling``).
        cost: from an expression instead of it to its cost.
        error: predicts the error of an expression instead of it, in the layer's own coordinates.
    """
    if not can_pool(conv):
        return []
    price = cost(pooled(conv.without_weights()))
    if price >= cost(conv.without_weights()):
        return []
    nothing = replace(conv, weight=torch.zeros_like(conv.weight), bias=None)
    return [Candidate(Choice(POOL, 1), price, error(nothing))]
