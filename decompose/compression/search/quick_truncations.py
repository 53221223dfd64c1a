"""Truncate one layer quickly, by any method and rank, factorising once for each method."""

from __future__ import annotations

from collections.abc import Callable

import torch

from decompose.algebra import Conv, Expression, Whitening, behind_selection, keep_inputs
from decompose.methods import Method, get_method
from decompose.methods.choices import FACTORS, Choice
from decompose.methods.factorisation_cache import FactorisationCache
from decompose.methods.pooling import POOL


class QuickTruncations:
    """Expressions for a layer by ``Method.prepare_quickly``; to be dropped with the layer.

    Args:
        conv: the layer.
        whitening: the coordinates in which the methods truncate; the kernel's own by default.
        factors: of the layer, where it is decomposed already.
    """

    def __init__(
        self,
        conv: Conv,
        whitening: Whitening | None = None,
        factors: Expression | None = None,
    ) -> None:
        self.conv, self._whitening, self.factors = conv, whitening, factors
        self._given: dict[bool | None, Conv] = {}
        self._factorised: dict[tuple[str, bool | None], Callable[[int], Expression]] = {}

    def whitens_channels(self, outline: Expression) -> bool | None:
        """Whether the channels are whitened for an expression of this structure.

        ``None`` where nothing is.
        """
        return None if self._whitening is None else self._whitening.reads_channels(outline)

    def made(self, method: Method, rank: int, channels: bool | None) -> Expression:
        """Truncate the kernel by a method, in whitened coordinates.

        Args:
            method: the method.
            rank: its rank.
            channels: as ``whitens_channels`` gives it.
        """
        key = method.name, channels
        if key not in self._factorised:
            if channels not in self._given:
                self._given[channels] = self._into(channels)
            self._factorised[key] = method.prepare_quickly(self._given[channels])
        return self._factorised[key](rank)

    def expression(self, choice: Choice) -> Expression:
        """The expression of a choice, with the factors decomposed in turn.

        Raises:
            DecomposeError: as ``Choice.rewrite``.
        """
        if choice.method == FACTORS and self.factors is not None:
            return choice.go_on(self.factors)
        if choice.pruned is not None:
            # Not refitted to the statistics, which the inputs that judge it are part of.
            kept = torch.tensor(choice.pruned.kept)
            return behind_selection(keep_inputs(self.conv, kept), kept, self.conv.in_channels)
        if choice.method == POOL:
            return choice.rewrite(self.conv)
        channels = self.whitens_channels(choice.rewrite(self.conv.without_weights()))
        made = self.made(get_method(choice.method), choice.rank, channels)
        made = choice.go_on(made, FactorisationCache())
        if self._whitening is None:
            return made
        return self._whitening.back(made, channels=bool(channels))

    def _into(self, channels: bool | None) -> Conv:
        if self._whitening is None:
            return self.conv
        return self._whitening.into(self.conv, channels=bool(channels))
