"""Order a graph's nodes, and join those that run together in ONNX Runtime."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from decompose.layers.modules import DECOMPOSABLE, to_conv
from decompose.models.onnx.graph import input_names, output_names, read_names, title_of
from decompose.models.onnx.layers import Layer
from decompose.models.onnx.model_file import OnnxModel
from decompose.models.onnx.onnxruntime_segments import Segment

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, eq=False)
class LayerNode:
    """A node that runs as a torch module.

    Attributes:
        node: of the graph.
        module: the module's name; several nodes may be one module.
        layer: what the node was read as; its tensors are not the module's to change.
    """

    node: ir.Node
    module: str
    layer: Layer

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerNode:
        return self

    def is_unchanged(self, module: nn.Module) -> bool:
        """Whether a module is still the layer that the node was read as."""
        if not isinstance(module, DECOMPOSABLE):
            return False
        now, then = to_conv(module), self.layer.conv
        return _is_equal(now.bias, then.bias) and _is_equal(now.weight, then.weight)


def _is_equal(now: Tensor | None, then: Tensor | None) -> bool:
    if now is None or then is None:
        return now is then
    return torch.equal(now.to(then.device), then)


Action = LayerNode | Segment | Callable[..., Tensor]
"""The action of a step: a module, nodes in ONNX Runtime, or a torch function."""


@dataclass(frozen=True, eq=False)
class Step:
    """One step of running a graph.

    Attributes:
        action: what.
        inputs: the values that it takes, by name; empty where one is left out.
        outputs: those that it writes.
        title: what it is, for messages.
        done: values that nothing after it reads.
    """

    action: Action
    inputs: Sequence[str]
    outputs: Sequence[str]
    title: str
    done: Sequence[str] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Step:
        return self


def schedule(
    model: OnnxModel,
    in_torch: Mapping[ir.Node, LayerNode | Callable[..., Tensor]],
    constants: Mapping[str, np.ndarray],
    outputs: Collection[str],
) -> list[Step]:
    """The steps of a graph, without nodes that no output depends on.

    A node's stage is that of the latest node it reads from, or the next one where one of the two runs
    in torch and the other in ONNX Runtime. The nodes of a stage that run there do so together.

    Args:
        model: its nodes are in an order in which they can run.
        in_torch: what runs in torch.
        constants: by name; nodes that give no more than these do not run.
        outputs: the values that are asked for.
    """
    stage_of: dict[str, tuple[int, bool]] = {}
    stages: dict[int, list[ir.Node]] = defaultdict(list)
    needed = _needed(model.nodes, constants, outputs)
    for node in needed:
        torchly = node in in_torch
        before = [stage_of[name] for name in read_names(node) if name in stage_of]
        stage = max((s + (kind != torchly) for s, kind in before), default=0)
        stage_of.update(dict.fromkeys(output_names(node), (stage, torchly)))
        stages[stage].append(node)
    readers = _readers(needed)
    steps: list[Step] = []
    for stage in sorted(stages):
        together = [node for node in stages[stage] if node not in in_torch]
        if together:
            steps.append(_segment(model, together, outputs, readers, constants))
        steps += [_torch_step(n, in_torch[n]) for n in stages[stage] if n in in_torch]
    return _freeing(steps, outputs)


def _segment(
    model: OnnxModel,
    nodes: Sequence[ir.Node],
    wanted: Collection[str],
    readers: Mapping[str, set[ir.Node]],
    constants: Mapping[str, np.ndarray],
) -> Step:
    """The step of nodes that run together; its outputs are the values that others read."""
    names = [name for node in nodes for name in output_names(node)]
    written = [name for name in names if name and name not in constants]
    given = [n for n in written if n in wanted or readers.get(n, set()) - {*nodes}]
    segment = Segment(model, nodes, given, constants)
    return Step(segment, segment.inputs, segment.outputs, segment.title)


def _needed(
    nodes: Sequence[ir.Node], constants: Collection[str], wanted: Collection[str]
) -> list[ir.Node]:
    """The nodes that the wanted outputs depend on."""
    read = {*wanted}
    needed: list[ir.Node] = []
    for node in reversed(nodes):
        if any(name in read and name not in constants for name in output_names(node)):
            needed.append(node)
            read.update(read_names(node))
    return needed[::-1]


def _readers(nodes: Sequence[ir.Node]) -> dict[str, set[ir.Node]]:
    """Which of these nodes read each value."""
    readers: dict[str, set[ir.Node]] = defaultdict(set)
    for node in nodes:
        for name in read_names(node):
            readers[name].add(node)
    return readers


def _torch_step(node: ir.Node, action: LayerNode | Callable[..., Tensor]) -> Step:
    # A layer's weights are its module's.
    inputs = input_names(node)[: 1 if isinstance(action, LayerNode) else None]
    return Step(action, inputs, output_names(node)[:1], f"{title_of(node)} ({node.op_type})")


def _freeing(steps: Sequence[Step], wanted: Collection[str]) -> list[Step]:
    """The steps, each with the values to free after it."""
    freed: list[Step] = []
    seen = {*wanted}
    for step in reversed(steps):
        touched = dict.fromkeys(name for name in (*step.inputs, *step.outputs) if name)
        freed.append(replace(step, done=[name for name in touched if name not in seen]))
        seen.update(touched)
    return freed[::-1]
