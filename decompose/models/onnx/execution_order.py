"""In which order a graph's nodes run, and which of them run together in ONNX Runtime."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from decompose.models.onnx.graph import read_names
from decompose.models.onnx.layers import Layer
from decompose.models.onnx.model_file import OnnxModel
from decompose.models.onnx.onnxruntime_segments import Segment

if TYPE_CHECKING:
    from onnx import NodeProto


@dataclass(frozen=True)
class LayerNode:
    """A node that is a module.

    Attributes:
        place: among the graph's nodes.
        module: the module's name; several nodes may be one module.
        layer: what the node was read as; its tensors are not the module's to change.
    """

    place: int
    module: str
    layer: Layer


Action = LayerNode | Segment | Callable[..., Tensor]
"""What a step does: a module, nodes in ONNX Runtime, or a torch function."""


@dataclass(frozen=True, eq=False)
class Step:
    """Something that runs.

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
    in_torch: Mapping[int, LayerNode | Callable[..., Tensor]],
    constants: Mapping[str, np.ndarray],
    outputs: Collection[str],
) -> list[Step]:
    """The steps of a graph, without nodes that no output depends on.

    A node's stage is that of the latest node it reads from, or the next one where one of the two runs
    in torch and the other in ONNX Runtime. The nodes of a stage that run there do so together.

    Args:
        model: its nodes are in an order in which they can run.
        in_torch: what runs in torch, by the node's place.
        constants: by name; nodes that give no more than these do not run.
        outputs: the values that are asked for.
    """
    nodes = model.proto.graph.node
    stage_of: dict[str, tuple[int, bool]] = {}
    stages: dict[int, list[int]] = defaultdict(list)
    needed = _needed(nodes, constants, outputs)
    for place in needed:
        node, torchly = nodes[place], place in in_torch
        before = [stage_of[name] for name in read_names(node) if name in stage_of]
        stage = max((s + (kind != torchly) for s, kind in before), default=0)
        stage_of.update(dict.fromkeys(node.output, (stage, torchly)))
        stages[stage].append(place)
    readers = _readers(nodes, needed)
    steps: list[Step] = []
    for stage in sorted(stages):
        together = [place for place in stages[stage] if place not in in_torch]
        if together:
            steps.append(_segment(model, together, outputs, readers, constants))
        steps += [
            _torch_step(nodes[place], in_torch[place])
            for place in stages[stage]
            if place in in_torch
        ]
    return _freeing(steps, outputs)


def _segment(
    model: OnnxModel,
    places: Sequence[int],
    wanted: Collection[str],
    readers: Mapping[str, set[int]],
    constants: Mapping[str, np.ndarray],
) -> Step:
    """The step of nodes that run together; it gives what others read of them."""
    nodes = [model.proto.graph.node[place] for place in places]
    written = [name for node in nodes for name in node.output if name and name not in constants]
    given = [n for n in written if n in wanted or readers.get(n, set()) - {*places}]
    segment = Segment(model, nodes, given, constants)
    return Step(segment, segment.inputs, segment.outputs, segment.title)


def _needed(
    nodes: Sequence[NodeProto], constants: Collection[str], wanted: Collection[str]
) -> list[int]:
    """The places of the nodes that what is wanted depends on."""
    read = {*wanted}
    needed: list[int] = []
    for place in reversed(range(len(nodes))):
        if any(name in read and name not in constants for name in nodes[place].output):
            needed.append(place)
            read.update(read_names(nodes[place]))
    return needed[::-1]


def _readers(nodes: Sequence[NodeProto], places: Sequence[int]) -> dict[str, set[int]]:
    """Which of the nodes at these places read each value."""
    readers: dict[str, set[int]] = defaultdict(set)
    for place in places:
        for name in read_names(nodes[place]):
            readers[name].add(place)
    return readers


def _torch_step(node: NodeProto, action: LayerNode | Callable[..., Tensor]) -> Step:
    # A layer's weights are its module's.
    inputs = list(node.input[:1] if isinstance(action, LayerNode) else node.input)
    title = f"{node.name or node.output[0]} ({node.op_type})"
    return Step(action, inputs, node.output[:1], title)


def _freeing(steps: Sequence[Step], wanted: Collection[str]) -> list[Step]:
    """The steps, each with the values that it is the last one to need."""
    freed: list[Step] = []
    seen = {*wanted}
    for step in reversed(steps):
        touched = dict.fromkeys(name for name in (*step.inputs, *step.outputs) if name)
        freed.append(replace(step, done=[name for name in touched if name not in seen]))
        seen.update(touched)
    return freed[::-1]
