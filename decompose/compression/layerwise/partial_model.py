"""The model while its layers are decomposed one after another.

A decomposed layer replaces the original's at once, so that the layers after it read its output. Where
its inputs are pruned, the layer that writes them is replaced by one with fewer outputs, decomposed or
not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from decompose.algebra import Conv, Expression, keep_outputs, widened
from decompose.compression.layerwise.channel_selection import moments, refit_inputs, select_inputs
from decompose.compression.layerwise.sampling import Samples
from decompose.layers.channel_pruning import (
    Kept,
    put_,
    remember_kept,
    shrink_normalisations_,
)
from decompose.layers.dependencies import Dependency
from decompose.layers.discovery import copied
from decompose.layers.eligibility import why_not_decomposable
from decompose.layers.modules import DecomposedLayer, Layer, to_conv, to_module
from decompose.methods.choices import Choice
from decompose.models.conversion import like_original


class PartialModel:
    """A copy of a model whose layers are replaced one after another.

    Args:
        model: left as it was.
        originals: its layers by full name.
        dependencies: of its layers, by consumer; only where inputs are to be pruned.

    Attributes:
        small: the model as it is now.
        convs: the dense layers, pruned so far, in float32 at least, on the CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        originals: Mapping[str, Layer],
        dependencies: Mapping[str, Dependency],
    ) -> None:
        self.small = copied(model)
        self._originals, self._dependencies = originals, dependencies
        self.convs = {name: _at_hand(to_conv(m)) for name, m in self._originals.items()}
        self._made: dict[str, tuple[Expression, Choice | None]] = {
            name: (conv, None) for name, conv in self.convs.items()
        }
        self._kept: dict[str, Kept] = dict.fromkeys(self.convs, Kept())

    def why_not_prunable(self, consumer: str) -> str | None:
        """Why a layer's inputs cannot be pruned, or ``None`` if they can."""
        dependency = self._dependencies.get(consumer)
        if dependency is None:
            return "no one layer writes them for it alone"
        for name in (consumer, dependency.producer):
            if self.convs[name].groups != 1:
                return f"{name} has groups"
            if reason := why_not_decomposable(self._originals[name]):
                return f"{name}: {reason}"
        return None

    def kept_inputs(self, name: str) -> Tensor | None:
        """The input channels that a layer still has, ``(n,)`` int64; ``None`` for all."""
        return self._kept[name].inputs

    def prune(self, name: str, num_kept: int, samples: Samples, ridge: float) -> Samples:
        """Select a layer's inputs, refit it, and remove the others from the layer that writes them.

        Args:
            name: of the layer, without ``why_not_decomposable``.
            num_kept: inputs that stay.
            samples: of the layer with all its inputs.
            ridge: of the refit.

        Returns:
            The samples of the inputs that stay.
        """
        rows = moments(samples)
        kept = select_inputs(self.convs[name], rows, num_kept)
        self.convs[name] = refit_inputs(self.convs[name], rows, kept, ridge=ridge)
        self._kept[name] = self._kept[name]._replace(inputs=kept)
        self.take(name, self.convs[name], None)
        self._shrink(self._dependencies[name], kept)
        return samples.of_inputs(kept)

    def take(self, name: str, expression: Expression, choice: Choice | None) -> None:
        """Replace a layer by an expression.

        Args:
            name: of the layer.
            expression: the new one.
            choice: that made it; ``None`` for one convolution.
        """
        self._made[name] = expression, choice
        original = self._originals[name]
        module = to_module(expression)
        if choice is not None:
            standing = to_module(self.convs[name])
            module = DecomposedLayer(standing, expression, choice)  # type: ignore[arg-type]
        module.to(original.weight.device, original.weight.dtype)
        remember_kept(module, self._kept[name])
        put_(self.small, name, like_original(original, module))

    def _shrink(self, dependency: Dependency, kept: Tensor) -> None:
        name = dependency.producer
        expression, choice = self._made[name]
        smaller = keep_outputs(self.convs[name], kept)
        assert isinstance(smaller, Conv)
        self.convs[name] = smaller
        self._kept[name] = self._kept[name]._replace(outputs=kept)
        self.take(name, keep_outputs(expression, kept), choice)
        shrink_normalisations_(self.small, dependency.normalisations, kept)


def _at_hand(conv: Conv) -> Conv:
    """Convert a convolution to float32 at least, on the CPU."""
    wide = widened(conv)
    assert isinstance(wide, Conv)
    return replace(
        wide, weight=wide.weight.cpu(), bias=None if wide.bias is None else wide.bias.cpu()
    )
