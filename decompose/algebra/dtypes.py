"""Expressions converted to other dtypes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from decompose.algebra.expressions import Conv, Expression, map_leaves


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32, since linear algebra has no routines for it.

    Example:
        >>> at_least_float32(torch.ones(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def widened(expression: Expression) -> Expression:
    """Convert an expression in half precision to float32; others stay as they are.

    Example:
        >>> widened(Conv(torch.ones(2, 3, dtype=torch.float16))).weight.dtype
        torch.float32
    """

    def widen(conv: Conv) -> Conv:
        bias = None if conv.bias is None else at_least_float32(conv.bias)
        return replace(conv, weight=at_least_float32(conv.weight), bias=bias)

    return map_leaves(widen, expression)


def converted(expression: Expression, dtype: torch.dtype) -> Expression:
    """Convert all weights of an expression to a dtype."""

    def convert(conv: Conv) -> Conv:
        bias = None if conv.bias is None else conv.bias.to(dtype)
        return replace(conv, weight=conv.weight.to(dtype), bias=bias)

    return map_leaves(convert, expression)
