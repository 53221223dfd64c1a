"""Expressions in another dtype, for linear algebra that needs more digits."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from decompose.algebra.expressions import Conv, Expression, map_leaves


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision as float32, since linear algebra has no routines for it."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def widened(expression: Expression) -> Expression:
    """The expression with half precision as float32."""

    def widen(conv: Conv) -> Conv:
        bias = None if conv.bias is None else at_least_float32(conv.bias)
        return replace(conv, weight=at_least_float32(conv.weight), bias=bias)

    return map_leaves(widen, expression)


def converted(expression: Expression, dtype: torch.dtype) -> Expression:
    """The expression with all weights in a dtype."""

    def convert(conv: Conv) -> Conv:
        bias = None if conv.bias is None else conv.bias.to(dtype)
        return replace(conv, weight=conv.weight.to(dtype), bias=bias)

    return map_leaves(convert, expression)
