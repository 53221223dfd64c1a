"""Whiten a kernel: change its coordinates, so that its input has no correlations, and back.

A method that keeps the largest singular values of a kernel minimises the kernel's error, but
the output's error matters: with the covariance C of the input's patches, ``tr(D C D^T)`` for a kernel
that differs by D. Where C is a Kronecker product of covariances of the channels and of the taps
along each axis, as it nearly is,

    tr(D C D^T) = |D C^1/2|^2,   C^1/2 = A x B_1 x ... x B_N,

so a method that is given the kernel ``W C^1/2`` keeps the principal components of the *output*
(Zhang et al. 2016, arXiv 1505.06798, section 3.1, in the input's coordinates). Its factors go back
by the inverse roots: A's into the factors that read the input, B_n's into those that have taps
along axis n. A factor that reads each channel alone cannot take A's, which then stays out.

Few inputs show little of their rare directions, and the layers after this one may amplify what is
rare here. So a covariance is softened: some of the identity is added, up to the kernel's own error
as the softness grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from decompose.algebra.expressions import Chain, Conv, Expression, Sum, map_leaves


@dataclass(frozen=True, eq=False)
class Whitening:
    """The roots of a layer's input covariance, and their inverses.

    Attributes:
        channels: A and its inverse, ``(groups, I', I')`` each.
        taps: B_n and its inverse for every spatial axis, ``(k_n, k_n)`` each.

    Example:
        >>> covariance = torch.diag(torch.tensor([4.0, 1.0]))[None]
        >>> whitening = Whitening.of(covariance, taps=[], softness=1e-9)
        >>> white = whitening.into(Conv(torch.ones(3, 2)), channels=True)
        >>> torch.allclose(whitening.back(white, channels=True).weight, torch.ones(3, 2))
        True
    """

    channels: tuple[Tensor, Tensor]
    taps: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def of(cls, channels: Tensor, taps: Sequence[Tensor], softness: float) -> Whitening:
        """Compute the roots of covariances of the channels, and of the taps along each axis.

        Args:
            channels: ``(groups, I', I')``, positive semidefinite.
            taps: ``(k_n, k_n)`` for every spatial axis.
            softness: added to each covariance's diagonal, as a share of its mean; positive.
        """
        return cls(_roots(channels, softness), tuple(_roots(axis, softness) for axis in taps))

    def into(self, conv: Conv, *, channels: bool) -> Conv:
        """Whiten the kernel of a convolution.

        Args:
            conv: the layer.
            channels: whether the channels take part: ``reads_channels`` of the expression to be made.
        """
        weight = conv.weight
        if channels:
            weight = _through_channels(weight, self.channels[0], conv.groups)
        weight = _through_taps(weight, [root for root, _ in self.taps])
        return replace(conv, weight=weight)

    def back(self, expression: Expression, *, channels: bool) -> Expression:
        """Return an expression made of a whitened kernel to the coordinates of the input."""
        if channels:
            expression = _map_first(self._unwhiten_channels, expression)
        return map_leaves(self._unwhiten_taps, expression)

    def whiten_inputs(self, x: Tensor, *, channels: bool) -> Tensor:
        """Whiten patches ``(n, I, *kernel_size)``.

        An expression of a whitened kernel does to them what ``back`` of it does to the patches.
        """
        groups = len(self.channels[0])
        if channels:
            blocks = x.reshape(len(x), groups, x.shape[1] // groups, -1)
            mixed = torch.einsum("gji,ngit->ngjt", self.channels[1].to(x), blocks)
            x = mixed.reshape(x.shape)
        return _through_taps(x, [inverse.mT for _, inverse in self.taps])

    def reads_channels(self, expression: Expression) -> bool:
        """Whether each factor that reads the input mixes its channels, and so can be whitened."""
        groups = len(self.channels[0])
        return all(leaf.groups == groups for leaf in _first_leaves(expression))

    def _unwhiten_channels(self, leaf: Conv) -> Conv:
        return replace(leaf, weight=_through_channels(leaf.weight, self.channels[1], leaf.groups))

    def _unwhiten_taps(self, leaf: Conv) -> Conv:
        inverses = [inverse for _, inverse in self.taps]
        return replace(leaf, weight=_through_taps(leaf.weight, inverses).contiguous())


def _roots(covariance: Tensor, softness: float) -> tuple[Tensor, Tensor]:
    """A square root of a softened covariance, ``L L^T``, and its inverse."""
    wide = covariance.double()
    scale = wide.diagonal(dim1=-2, dim2=-1).mean(-1)
    # A layer whose input is zero is left in its own coordinates.
    scale = torch.where(scale > 0, scale, 1.0)[..., None, None]
    eye = torch.eye(wide.shape[-1], dtype=wide.dtype)
    softened = wide / scale + softness * eye
    # So is one whose input is constant: the rest of its covariance is rounding, of any sign.
    sound = torch.linalg.cholesky_ex(softened).info == 0
    root = torch.linalg.cholesky(torch.where(sound[..., None, None], softened, softness * eye))
    inverse = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)
    return root, inverse


def _through_channels(weight: Tensor, matrix: Tensor, groups: int) -> Tensor:
    blocks = weight.reshape(groups, -1, matrix.shape[1], math.prod(weight.shape[2:]))
    mixed = torch.einsum("goit,gij->gojt", blocks, matrix.to(weight))
    return mixed.reshape(weight.shape)


def _through_taps(weight: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply along every axis along which there are several taps."""
    for axis, matrix in enumerate(matrices, start=2):
        if weight.shape[axis] > 1:
            weight = (weight.movedim(axis, -1) @ matrix.to(weight)).movedim(-1, axis)
    return weight


def _map_first(function: Callable[[Conv], Conv], expression: Expression) -> Expression:
    if isinstance(expression, Conv):
        return function(expression)
    if isinstance(expression, Chain):
        first, *others = expression.parts
        return Chain(_map_first(function, first), *others)
    return Sum(*(_map_first(function, part) for part in expression.parts))


def _first_leaves(expression: Expression) -> list[Conv]:
    """The factors that read the input."""
    if isinstance(expression, Conv):
        return [expression]
    parts = expression.parts[:1] if isinstance(expression, Chain) else expression.parts
    return [leaf for part in parts for leaf in _first_leaves(part)]
