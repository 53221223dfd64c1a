"""Inspect a model: the cost of each layer, and the energy of its first terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from decompose.algebra import Conv, compose
from decompose.layers.channel_pruning import method_and_rank
from decompose.layers.costs import count_macs, count_params, trace_shapes
from decompose.layers.discovery import find_layers
from decompose.layers.modules import DecomposedLayer, to_expression
from decompose.methods import METHODS, principal_components
from decompose.methods.choices import Note
from decompose.methods.network_decoupling import NetworkDecoupling
from decompose.utils.batches import Example
from decompose.utils.tables import Table, format_count

_SHOWN_TERMS = 4


@dataclass(frozen=True)
class LayerInspection:
    """One convolution or fully connected layer.

    Attributes:
        name: its full name.
        shape: kernel size, channels and groups, for readers.
        method: what rewrote it; ``dense`` if nothing did.
        rank: its rank, those of its factors behind it; empty where nothing rewrote it.
        macs: MACs for one input of the model.
        params: weights and biases.
        energy: by method, the share of the kernel's energy that its first 1, 2, ... terms hold.
            Of a decomposed layer it is the recomposed kernel's. Empty for kernels that are
            pointwise or depthwise already.
        explained_variance: the same for the principal components, the mean kernel taken out.
        note: what the search that chose the method knew: its predicted error, and the runner-up.
    """

    name: str
    shape: str
    method: str
    rank: str
    macs: int
    params: int
    energy: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    explained_variance: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    note: Note | None = None


@dataclass(frozen=True)
class Inspection:
    """A model, layer by layer.

    Attributes:
        layers: convolutions and fully connected layers, in the model's order.
        macs: of all of them, for one input.
        params: of the whole model.
    """

    layers: tuple[LayerInspection, ...]
    macs: int
    params: int

    def table(self, method: str, *, centred: bool = False) -> Table:
        """A row a layer.

        Args:
            method: whose terms are shown.
            centred: show the explained variance of the principal components instead.
        """
        searched = any(layer.note for layer in self.layers)
        rows = []
        for layer in self.layers:
            held = (layer.explained_variance if centred else layer.energy).get(method, ())
            shares = [f"{100 * share:.1f}" for share in held[:_SHOWN_TERMS]]
            rows.append(
                (
                    layer.name,
                    layer.shape,
                    layer.method,
                    layer.rank,
                    format_count(layer.macs / 1e6),
                    format_count(layer.params / 1e3),
                    *shares,
                    *[""] * (_SHOWN_TERMS - len(shares)),
                    *(_note_cells(layer.note) if searched else ()),
                )
            )
        what = "variance explained by first components" if centred else "energy of first terms"
        terms = [str(term) for term in range(1, _SHOWN_TERMS + 1)]
        total = [format_count(self.macs / 1e6), format_count(self.params / 1e3)]
        noted = ["predicted\nerror", "runner-up", "its\nerror"] if searched else []
        return Table(
            f"Layers; {what}, {method}, in %",
            ["layer", "kernel", "method", "terms", "MMACs", "k\nparams", *terms, *noted],
            rows,
            ["model", "", "", "", *total, *[""] * (_SHOWN_TERMS + len(noted))],
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return asdict(self)


def inspect_layers(model: nn.Module, example: Example) -> Inspection:
    """Inspect every layer of a model, decomposed or not.

    Args:
        model: left as it was.
        example: one batch; only its shape matters.

    Raises:
        DecomposeError: the model does not take the example.
    """
    macs = count_macs(model, trace_shapes(model, example))
    layers = tuple(
        _inspect_layer(name, layer, macs[name]) for name, layer in find_layers(model).items()
    )
    return Inspection(layers, sum(macs.values()), count_params(model))


def _inspect_layer(name: str, layer: nn.Module, macs: int) -> LayerInspection:
    params = count_params(layer)
    conv = compose(to_expression(layer))
    return LayerInspection(
        name,
        kernel_shape(conv),
        *method_and_rank(layer),
        macs,
        params,
        *({}, {}) if conv.is_pointwise or conv.is_depthwise else _spectra(conv),
        note=layer.note if isinstance(layer, DecomposedLayer) else None,
    )


def _note_cells(note: Note | None) -> tuple[str, str, str]:
    if note is None:
        return "", "", ""
    beaten = "" if note.runner_up_error is None else f"{note.runner_up_error:.5f}"
    return f"{note.error:.5f}", note.runner_up, beaten


def _spectra(conv: Conv) -> tuple[dict[str, tuple[float, ...]], dict[str, tuple[float, ...]]]:
    orders = {
        name: method for name, method in METHODS.items() if isinstance(method, NetworkDecoupling)
    }
    return (
        {name: tuple(order.energy(conv).tolist()) for name, order in orders.items()},
        {
            name: tuple(principal_components(conv, order).cumulative_ratio().tolist())
            for name, order in orders.items()
        },
    )


def kernel_shape(conv: Conv) -> str:
    """A kernel's size, channels and groups, for readers: ``3x3 32→32 /2``."""
    taps = "x".join(map(str, conv.kernel_size)) + " " if conv.kernel_size else ""
    groups = f" /{conv.groups}" if conv.groups > 1 else ""
    return f"{taps}{conv.in_channels}→{conv.out_channels}{groups}"
