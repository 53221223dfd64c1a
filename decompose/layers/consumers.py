"""Find the readers of layers' outputs and weights, in one forward pass.

A model may read ``self.conv.weight`` itself, or ask a transposed convolution for a certain output size;
a decomposed layer would have to compose the weight, and takes no size. So the pass runs a copy of the
model in which stand-ins let everything through to the layers and note such reads. A dispatch mode
records which operators read what the layers write. Operators that treat each channel by itself, such as
ReLU, BatchNorm in evaluation mode and pooling, are followed to their outputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from decompose.layers.discovery import copied
from decompose.layers.forward import evaluating
from decompose.layers.modules import copy_attributes
from decompose.utils.batches import Example, call, first

NORMALISERS = frozenset(
    {
        "native_batch_norm",
        "_native_batch_norm_legit_no_training",
        "cudnn_batch_norm",
        "miopen_batch_norm",
    }
)

POINTWISE = frozenset(
    name + suffix
    for name in (
        *("relu", "hardtanh", "leaky_relu", "hardswish", "silu"),
        *("gelu", "elu", "sigmoid", "tanh", "clone"),
    )
    for suffix in ("", "_")
)

_POOLING = frozenset(
    {f"max_pool{n}d_with_indices" for n in (2, 3)}
    | {f"avg_pool{n}d" for n in (2, 3)}
    | {f"_adaptive_avg_pool{n}d" for n in (2, 3)}
)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor written by a layer, or made of one by channelwise operators.

    Attributes:
        layer: full name of the layer.
        shape: of the tensor.
        dtype: of the tensor.
        device: of the tensor.
        uses: the operators that read it, in their order.
    """

    layer: str
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    uses: list[Use] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Use:
    """One read of a value.

    Attributes:
        operator: its name in ATen; ``output`` where the model returns the value.
        inside: full name of the layer or BatchNorm that runs the operator; empty elsewhere.
        result: the value that the operator makes of each channel by itself; ``None`` where it mixes
            channels, or reads the value beside another tensor.
        arguments: of the operator, behind the value; empty where there is no result.
    """

    operator: str
    inside: str
    result: Value | None = None
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, eq=False)
class Consumers:
    """Readers of the layers' weights and outputs.

    Attributes:
        weights: by layer, the reason why it cannot be swapped: the model reads its weight, or calls it
            with more than one input.
        inputs: by layer or BatchNorm, the value that each call reads; ``None`` for other tensors.
        outputs: by layer, the value that each call writes.
    """

    weights: Mapping[str, str]
    inputs: Mapping[str, Sequence[Value | None]]
    outputs: Mapping[str, Sequence[Value]]


def find_consumers(
    model: nn.Module,
    example: Example,
    layers: Mapping[str, nn.Module],
    *,
    norms: Mapping[str, nn.Module] | None = None,
    whole: Mapping[str, nn.Module] | None = None,
) -> Consumers:
    """Find the readers of the layers' weights and outputs in one forward pass.

    Args:
        model: left as it was; it takes the example.
        example: one batch (``utils.batches``); only its first input is used.
        layers: by full name; their weights and outputs are watched.
        norms: BatchNorms by full name; their weights are watched, and operators inside them are known
            by their names.
        whole: further layers and BatchNorms, whose weights are not watched.
    """
    norms, whole = norms or {}, whole or {}
    weights: dict[str, str] = {}
    replacements: dict[int, nn.Module] = {id(module): module for module in whole.values()}
    recorder = _Recorder()
    with evaluating(model), ExitStack() as stack:
        for name, module in {**layers, **norms}.items():
            spy = _WeightSpy(module, partial(weights.setdefault, name))
            replacements[id(module)] = spy
            stack.callback(module.register_forward_pre_hook(spy.note_caller).remove)
        copy = copied(model, replacements)
        with recorder, recorder.watching({**whole, **layers, **norms}):
            recorder.read("output", call(copy, first(example)))
    return Consumers(weights, dict(recorder.inputs), dict(recorder.outputs))


class _WeightSpy(nn.Module):
    """Passes calls on to a layer, and notes uses of it that a decomposed layer could not serve."""

    def __init__(self, layer: nn.Module, note: Callable[[str], object]) -> None:
        super().__init__()
        copy_attributes(layer, self)
        # Not as a submodule, whose hooks and names would be the model's to see.
        self.__dict__.update(_layer=layer, _note=note, _is_called=False)
        self.training = layer.training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(self.__dict__["_layer"], name)
        self.__dict__["_note"](f"the model reads its {name} itself")
        return value

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """The layer's output."""
        if len(inputs) != 1 or keywords:
            self.__dict__["_note"]("the model calls it with more than one input")
        self.__dict__["_is_called"] = True
        try:
            return self.__dict__["_layer"](*inputs, **keywords)
        finally:
            self.__dict__["_is_called"] = False

    def note_caller(self, *_: Any) -> None:
        """Note that the layer runs, whichever module calls it."""
        if not self.__dict__["_is_called"]:
            self.__dict__["_note"]("a function calls it that copies of the model share")


class _Recorder(TorchDispatchMode):
    """Records the operators that read the layers' outputs."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Let torch leave its compiler unimported: that takes as long as a small model's plan."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[str, list[Value | None]] = defaultdict(list)
        self.outputs: dict[str, list[Value]] = defaultdict(list)
        # Weak, so that the pass needs no more memory than any other.
        self._values = WeakTensorKeyDictionary()
        self._running: list[str] = []

    @contextmanager
    def watching(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Follow the running module, its inputs and its output."""
        handles = []
        for name, module in modules.items():
            handles += [
                module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True),
                module.register_forward_hook(partial(self._leave, name)),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def read(self, operator: str, values: Any) -> None:
        """Note that an operator reads tensors, and that its result is not followed."""
        for leaf in tree_leaves(values):
            if (value := self._value_of(leaf)) is not None:
                value.uses.append(Use(operator, self._inside))

    @property
    def _inside(self) -> str:
        return self._running[-1] if self._running else ""

    def _value_of(self, leaf: Any) -> Value | None:
        return self._values.get(leaf) if isinstance(leaf, Tensor) else None

    def _enter(
        self, name: str, _: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> None:
        self._running.append(name)
        read = inputs[0] if inputs else next(iter(keywords.values()), None)
        self.inputs[name].append(self._value_of(read))

    def _leave(self, name: str, module: nn.Module, _: Any, output: Any) -> None:
        self._running.pop()
        if isinstance(output, Tensor) and getattr(module, "running_mean", None) is None:
            self.outputs[name].append(self._write(output, name))

    def _write(self, tensor: Tensor, layer: str) -> Value:
        value = Value(layer, tensor.shape, tensor.dtype, tensor.device)
        self._values[tensor] = value
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = func.overloadpacket.__name__
        value = self._value_of(args[0]) if args else None
        result = func(*args, **kwargs)
        if value is None or not _is_channelwise(operator, value.shape, args):
            self.read(operator, (args, kwargs))
            return result
        self.read(operator, (args[1:], kwargs))
        made = self._write(result[0] if isinstance(result, tuple) else result, value.layer)
        value.uses.append(Use(operator, self._inside, made, args[1:]))
        return result


def _is_channelwise(operator: str, shape: Sequence[int], args: Sequence[Any]) -> bool:
    """Whether an operator keeps the channels, axis 1, apart."""
    num_axes = len(shape)
    if operator in ("squeeze", "unsqueeze"):
        # Pooling along one axis adds another for the while.
        axis = args[1] if len(args) > 1 else 0
        return isinstance(axis, int) and axis % (num_axes + (operator == "unsqueeze")) > 1
    if operator == "mean":
        axes = args[1] if len(args) > 1 else None
        return bool(axes) and all(axis % num_axes > 1 for axis in axes)
    return operator in NORMALISERS or operator in POINTWISE or operator in _POOLING
