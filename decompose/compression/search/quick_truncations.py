"""Truncate one layer quickly, by any method and rank, factorising once for each method."""

from __future__ import annotations

from collections.abc import Callable

from decompose.algebra import Conv, Expression, Whitening
from decompose.methods import Method, get_method
from decompose.methods.choices import Choice
from decompose.methods.factorisation_cache import FactorisationCache


class QuickTruncations:
    """Expressions for a layer by ``Method.prepare_quickly``; to be dropped with the layer.

    Args:
        conv: the layer.
        whitening: the coordinates in which the methods truncate; the kernel's own by default.
    """

    def __init__(self, conv: Conv, whitening: Whitening | None = None) -> None:
        self._conv, self._whitening = conv, whitening
        self._given: dict[bool, Conv] = {}
        self._factorised: dict[tuple[str, bool], Callable[[int], Expression]] = {}

    def whitens_channels(self, outline: Expression) -> bool:
        """Whether the channels are whitened for an expression of this structure."""
        return self._whitening is not None and self._whitening.reads_channels(outline)

    def made(self, method: Method, rank: int, channels: bool) -> Expression:
        """Truncate the kernel by a method, in whitened coordinates.

        Args:
            method: the method.
            rank: its rank.
            channels: whether the channels are whitened.
        """
        key = method.name, channels
        if key not in self._factorised:
            if channels not in self._given:
                self._given[channels] = self._into(channels)
            self._factorised[key] = method.prepare_quickly(self._given[channels])
        return self._factorised[key](rank)

    def back(self, made: Expression, channels: bool) -> Expression:
        """Return a truncation to the coordinates of the layer's input."""
        return made if self._whitening is None else self._whitening.back(made, channels=channels)

    def expression(self, choice: Choice) -> Expression:
        """The expression of a choice, with the factors decomposed in turn.

        Raises:
            DecomposeError: as ``Choice.rewrite``.
        """
        channels = False
        if self._whitening is not None:
            channels = self.whitens_channels(choice.rewrite(self._conv.without_weights()))
        made = self.made(get_method(choice.method), choice.rank, channels)
        return self.back(choice.go_on(made, FactorisationCache()), channels)

    def _into(self, channels: bool) -> Conv:
        if self._whitening is None:
            return self._conv
        return self._whitening.into(self._conv, channels=channels)
