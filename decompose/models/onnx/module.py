"""Run an ONNX graph as a torch module.

Its convolutions and fully connected layers are modules, under the names of their nodes; the nodes
between them run as torch functions where torch has them, so that gradients pass and a layer's readers
are found, and else in ONNX Runtime. So it is planned, measured and repaired as any other model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from decompose.algebra import Conv
from decompose.layers.modules import to_module
from decompose.models.onnx.execution_order import LayerNode, Step, schedule
from decompose.models.onnx.graph import (
    constants_of,
    input_names,
    output_names,
    title_of,
)
from decompose.models.onnx.layers import Unsuitable, read_layer, to_tensor
from decompose.models.onnx.model_file import FLOATING, LARGE, OnnxModel
from decompose.models.onnx.onnxruntime_segments import Segment
from decompose.models.onnx.operators import torch_function
from decompose.models.onnx.shapes import Value, fixed_inputs, infer_types, signature_of
from decompose.models.onnx.skipped_layers import count_other_macs, why_left_alone
from decompose.models.onnx.stored_weights import Holder, find_stored
from decompose.utils.errors import DecomposeError, first_line

if TYPE_CHECKING:
    import onnx_ir as ir

_KINDS = "fiub"
"""Numpy's dtypes that torch has too, without complex ones."""

_TROUBLE = (RuntimeError, LookupError, TypeError, ValueError, OverflowError)
"""Exceptions of torch where shapes or types do not fit."""


class OnnxModule(nn.Module):
    """A torch module that computes an ONNX model.

    Args:
        model: as ``read_model`` gives it.
        fixed: by name, what inputs besides the one are always given: a tensor, or a number that fills it.

    Attributes:
        model: the model, untouched by what becomes of the modules.
        signature: of its input.
        layer_nodes: the nodes that are modules.
        left_alone: convolutions that are none, with the reason.
        other_macs: what these cost for one input of the size that was run last, by name.
        output_names: of the values that it returns: scores rather than a softmax of them.

    Raises:
        DecomposeError: a constant is damaged, shapes contradict one another, or there is not one input
            that is left to give.
    """

    def __init__(self, model: OnnxModel, fixed: Mapping[str, Tensor | float] | None = None) -> None:
        super().__init__()
        self.model = model
        self.signature = signature_of(model, fixed or ())
        self.fixed = fixed_inputs(model, fixed or {})
        # Names that no layer may have; set below.
        self.layer_nodes: Sequence[LayerNode] = ()
        self.left_alone: dict[str, str] = {}
        self.other_macs: dict[str, int] = {}
        self.constants: nn.Module | None = None
        self._steps: Sequence[Step] = ()
        self._admitted: set[torch.Size] = set()
        self.output_names = _scores(model)
        self._holders: Mapping[str, Sequence[Holder]] = {}

        constants = constants_of(model)
        types = infer_types(model)
        self.layer_nodes = self._add_layers(constants, types)
        in_torch: dict[ir.Node, LayerNode | Callable[..., Tensor]] = {
            layer.node: layer for layer in self.layer_nodes
        }
        for node in model.nodes:
            if node not in in_torch and _is_for_torch(node, types, constants):
                function = torch_function(node, model.opset, constants)
                in_torch |= {} if function is None else {node: function}
        self._steps = schedule(model, in_torch, constants, self.output_names)
        stored = find_stored(model, self.layer_nodes, constants, self.output_names)
        self._holders = stored.holders
        self.constants = _Constants(
            stored.outside,
            {name: self.get_parameter(stored.holders[name][0].parameter) for name in stored.shared},
            self._read_in_torch(constants) | self.fixed,
        )
        self.eval()

    @property
    def tied_parameters(self) -> list[list[nn.Parameter]]:
        """Parameters that the file holds as one initialiser, such as a matrix and its transpose.

        Those of layers that something has changed are written apart.
        """
        assert isinstance(self.constants, _Constants)
        shared = self.constants.shared_by_name
        groups = []
        for name, holders in self._holders.items():
            if len(holders) > 1:
                group = [shared[name]] if name in shared else []
                for holder in holders:
                    if holder.layer.is_unchanged(self.get_submodule(holder.layer.module)):
                        group.append(self.get_parameter(holder.parameter))
                groups += [group] if len(group) > 1 else []
        return groups

    def forward(self, x: Tensor) -> Any:
        """Compute the outputs.

        Args:
            x: ``(batch, C, *size)``, channels first whatever the graph's own order.

        Returns:
            The graph's output, or a tuple where it has several. Of a softmax at the end it is the
            scores that go in, as torch's classifiers give them: where probabilities are all but 0 and
            1, they do not show earlier changes.

        Raises:
            DecomposeError: the graph does not take it, or a node cannot be run.
        """
        if self.signature.batch == 1 and len(x) > 1:
            return _together([self(one) for one in x.split(1)])
        x = self.signature.arranged(x)
        self._admit(x)
        assert isinstance(self.constants, _Constants)
        values = {**self.constants.on(x.device), self.signature.name: x}
        for step in self._steps:
            self._take(step, values, x.device)
        found = [values[name] for name in self.output_names]
        return found[0] if len(found) == 1 else tuple(found)

    def _take(self, step: Step, values: dict[str, Any], device: torch.device) -> None:
        try:
            given = [values[name] if name else None for name in step.inputs]
            written = [_on(device, y) for y in self._act(step, given)]
        except DecomposeError:
            raise
        except _TROUBLE as error:
            raise DecomposeError(f"node {step.title} cannot be run: {first_line(error)}") from error
        values.update(zip(step.outputs, written, strict=True))
        for name in step.done:
            values.pop(name, None)

    def _act(self, step: Step, given: Sequence[Any]) -> list[Tensor]:
        action = step.action
        if isinstance(action, Segment):
            return action.run(*given)
        if isinstance(action, LayerNode):
            borders, module = action.layer.borders, self.get_submodule(action.module)
            return [borders.cropped(module(borders.padded(given[0])))]
        return [action(*given)]

    def _admit(self, x: Tensor) -> None:
        """Refuse an input whose values would be far too large, before anything runs."""
        if x.shape not in self._admitted:
            shapes = {name: tuple(value.shape) for name, value in self.fixed.items()}
            infer_types(self.model, shapes | {self.signature.name: tuple(x.shape)})
            if self.left_alone:
                shapes[self.signature.name] = (1, *x.shape[1:])
                layers = {layer.node for layer in self.layer_nodes}
                self.other_macs = count_other_macs(self.model, layers, shapes)
            self._admitted.add(x.shape)

    def _add_layers(
        self, constants: Mapping[str, np.ndarray], types: Mapping[str, Value]
    ) -> list[LayerNode]:
        """Make a module of every node that is a layer; nodes of the same weights may share one."""
        found: list[LayerNode] = []
        modules: dict[Any, str] = {}
        weights: dict[Any, nn.Parameter] = {}
        for node in self.model.nodes:
            title = title_of(node)
            known = types.get(input_names(node)[0]) if node.inputs else None
            sizes = None if known is None or known.dims is None else known.dims[2:]
            try:
                layer = read_layer(node, constants, sizes)
            except Unsuitable as reason:
                self.left_alone |= why_left_alone(node, str(reason))
                continue
            conv = layer.conv
            # Of one matrix two nodes may read one as it lies, the other its transpose.
            laid_out = (conv.weight.shape, conv.weight.stride())
            key = (node.op_type, layer.weights, laid_out, conv.geometry, conv.groups)
            if key not in modules:
                modules[key] = self._add_layer(title, conv)
                module = self.get_submodule(modules[key])
                # Whose weight lies in the graph once is counted once.
                groups = conv.groups if conv.geometry.transposed else 1
                lying = (layer.weights[0], *laid_out, conv.geometry.transposed, groups)
                module.weight = weights.setdefault(lying, module.get_parameter("weight"))
            found.append(LayerNode(node, modules[key], layer))
        return found

    def _add_layer(self, title: str, conv: Conv) -> str:
        base = name = title.replace(".", "_")
        count = 1
        while not name or hasattr(self, name):
            count += 1
            name = f"{base}_{count}"
        module = to_module(conv)
        # Large weights are the model's own arrays, and whatever is done to them is written. Others
        # are recognised by their values.
        for parameter in module.parameters():
            if parameter.nbytes <= LARGE:
                parameter.data = parameter.data.clone()
        self.add_module(name, module)
        return name

    def _read_in_torch(self, constants: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """The constants that torch functions read, or that are outputs."""
        names = dict.fromkeys(self.output_names)
        for step in self._steps:
            if not isinstance(step.action, Segment):
                names |= dict.fromkeys(step.inputs)
        return {
            name: to_tensor(constants[name])
            for name in names
            if name in constants and constants[name].dtype.kind in _KINDS
        }


def _scores(model: OnnxModel) -> list[str]:
    """The outputs, a softmax replaced by its input."""
    given = {
        output_names(node)[0]: input_names(node)[0]
        for node in model.nodes
        if node.op_type == "Softmax"
    }
    names = (str(value.name) for value in model.content.graph.outputs)
    return [given.get(name, name) for name in names]


class _Constants(nn.Module):
    """Constants and weights outside the layers, shared by copies of a module.

    Args:
        weights: weights to be counted with the module's.
        shared: weights of layers that other nodes read too, and that stay where a layer is rewritten, by
            the names of their initialisers.
        by_name: what steps read.
    """

    def __init__(
        self,
        weights: Sequence[nn.Parameter],
        shared: Mapping[str, nn.Parameter],
        by_name: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)
        self.shared = nn.ParameterList(shared.values())
        self._names = tuple(shared)
        self._on: dict[torch.device, Mapping[str, Tensor]] = {torch.device("cpu"): by_name}

    @property
    def shared_by_name(self) -> dict[str, nn.Parameter]:
        """The weights of layers that other nodes read too, by the names of their initialisers."""
        return dict(zip(self._names, self.shared, strict=True))

    def on(self, device: torch.device) -> Mapping[str, Tensor]:
        """Constants that steps read, by name, on a device; copies of a module may be on several."""
        if device not in self._on:
            known = self._on[torch.device("cpu")]
            # What is made in inference mode could not be used outside of it.
            with torch.inference_mode(False):
                self._on[device] = {name: _on(device, tensor) for name, tensor in known.items()}
        return self._on[device]

    def __deepcopy__(self, memo: dict[int, Any]) -> _Constants:
        shared = {name: copy.deepcopy(p, memo) for name, p in self.shared_by_name.items()}
        copied = _Constants(list(self.weights), shared, {}) if shared else self
        copied._on = self._on
        return copied


def _is_for_torch(
    node: ir.Node, types: Mapping[str, Value], constants: Mapping[str, np.ndarray]
) -> bool:
    """Whether a node maps floating numbers to floating numbers, of types that torch has."""
    names = input_names(node)
    ends = [types.get(name) for name in (*names[:1], *output_names(node)[:1])]
    known = [constants[name] for name in names if name in constants]
    return (
        len(ends) == 2
        and all(end is not None and end.kind in FLOATING for end in ends)
        and all(array.dtype.kind in _KINDS for array in known)
    )


def _on(device: torch.device, x: Tensor) -> Tensor:
    """Move a value to a device, unless it is of whole numbers: sizes and axes stay on the host."""
    return x.to(device) if x.is_floating_point() else x


def _together(outputs: Sequence[Any]) -> Any:
    """Join the outputs of inputs that were run one by one to a batch."""
    if isinstance(outputs[0], tuple):
        return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
    return torch.cat(list(outputs))
