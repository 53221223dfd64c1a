"""The layers of a network: where they sit, what they see, what they cost."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from decompose.layers.detectors import fully_occupied, steadied
from decompose.layers.hooks import observing
from decompose.layers.modules import ORIGINALS, DecomposedLayer, Original, layer_macs
from decompose.utils.batches import Example, call, first, shape_text
from decompose.utils.errors import DecomposeError, first_line

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Shapes = Mapping[str, list[tuple[int, ...]]]
"""Input shapes of every layer, one for each of its calls."""


def find_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Convolutions, decomposed ones and fully connected layers, by their full names.

    A module used in several places is listed once, under its first name. The factors inside a
    decomposed convolution are not listed.

    Raises:
        DecomposeError: what is given is no module whose layers could be exchanged.
    """
    _require_module(model)
    layers: dict[str, nn.Module] = {}
    inside: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, DecomposedLayer):
            inside.update(id(part) for part in module.body.modules())
        if id(module) not in inside and isinstance(module, (*ORIGINALS, DecomposedLayer)):
            layers[name] = module
    return layers


def find_originals(model: nn.Module) -> dict[str, Original]:
    """The convolutions and fully connected layers that are not rewritten yet, by full name.

    Raises:
        DecomposeError: a weight is NaN or infinite, or there is none yet; nothing can be decomposed
            from there.
    """
    originals: dict[str, Original] = {
        name: layer for name, layer in find_layers(model).items() if isinstance(layer, ORIGINALS)
    }
    for name, module in originals.items():
        if is_lazy(module.weight):
            raise DecomposeError(
                f"layer {name}: gets its sizes from its first input; call the network once before"
            )
        if _is_plain(module.weight) and not torch.isfinite(module.weight).all():
            raise DecomposeError(f"layer {name}: its weights are not finite (NaN or Inf)")
    return originals


def obstacle(module: Original) -> str | None:
    """Why a layer cannot be swapped for another module, or ``None`` if it can."""
    plain = next(kind for kind in ORIGINALS if isinstance(module, kind))
    if parametrize.is_parametrized(module):
        return "its weight is parametrised"
    if not _is_plain(module.weight, meta=True):
        kind = type(module.weight).__name__
        return f"its weight is no plain tensor of floating numbers: {kind}, {module.weight.dtype}"
    computed = ("forward", "_conv_forward", "__call__")
    if any(
        getattr(type(module), name, None) is not getattr(plain, name, None) for name in computed
    ):
        return f"{type(module).__name__} computes its own forward"
    if plain is nn.Linear and type(module) is not plain:
        return f"others may look into a {type(module).__name__}"
    return attachment(module)


def attachment(module: nn.Module) -> str | None:
    """What was put on a module, and would go with it: hooks, or another forward; ``None`` if nothing."""
    if "forward" in vars(module):
        return "its forward was replaced"
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
        *(parameter._backward_hooks for parameter in module.parameters()),
    )
    return "it has hooks" if any(hooks) else None


def copied(model: nn.Module, replacements: Mapping[int, nn.Module]) -> nn.Module:
    """A deep copy of a network with other modules in the place of some.

    Args:
        model: left as it was.
        replacements: by the ``id`` of the module that each stands for, wherever that is held.
    """
    # A memo tells deepcopy which objects have their copy already, so every reference to a layer,
    # wherever it is held, becomes one to its replacement. It refuses tensors that torch computed, as
    # weights are that a hook makes of others.
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, {**computed, **replacements})


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; each module's own mode again outside."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    """Outputs of a network, one image at a time, since large temporaries cost more than calls."""
    with evaluating(model):
        return torch.cat([model(image) for image in images.split(1)])


def _require_module(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise DecomposeError(
            "the network is TorchScript, whose layers cannot be exchanged; give the module that it was "
            "scripted or traced from"
        )
    if not isinstance(model, nn.Module):
        raise DecomposeError(
            f"a {type(model).__name__} is no torch.nn.Module; of an exported program, give the module "
            "that it was exported from"
        )


def _is_plain(weight: Tensor, *, meta: bool = False) -> bool:
    """Whether a weight can be computed with; on the meta device only where that is admitted."""
    if weight.is_meta and not meta:
        return False
    return type(weight) in (Tensor, nn.Parameter) and weight.dtype in _DTYPES


def floating_tensors(output: object) -> list[Tensor]:
    """The floating tensors in what a network returns: a tensor, or a nest of such.

    Raises:
        DecomposeError: it returns something else.
    """
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        return [tensor for part in output.values() for tensor in floating_tensors(part)]
    if isinstance(output, tuple | list):
        return [tensor for part in output for tensor in floating_tensors(part)]
    raise DecomposeError(f"the network returns a {type(output).__name__}, not tensors")


def respond(model: nn.Module, example: Example) -> list[Tensor]:
    """The floating tensors by which networks are compared: what one returns for an example.

    Of a detector, what its heads give (``detectors``).

    Raises:
        DecomposeError: it returns something else.
    """
    with steadied(model) as answers:
        output = call(model, example)
    return floating_tensors(answers or output)


def trace_shapes(model: nn.Module, example: Example) -> Shapes:
    """Input shapes that every layer sees when the first of the example's inputs passes.

    The second stage of a detector sees as many boxes as the first may propose (``detectors``).

    Args:
        model: left as it was, its mode and running statistics included.
        example: one batch (``calls``); only its first input is used.

    Raises:
        DecomposeError: the model does not take the example.
    """
    shapes: dict[str, list[tuple[int, ...]]] = defaultdict(list)

    def record(name: str, x: Tensor, _: Tensor) -> None:
        shapes[name].append(tuple(x.shape))

    with evaluating(model), fully_occupied(model), observing(find_layers(model), record):
        try:
            call(model, first(example))
        except (RuntimeError, TypeError, ValueError, LookupError, AssertionError) as error:
            raise DecomposeError(
                f"the network does not take an input of shape {shape_text(example)}: "
                f"{first_line(error)}"
            ) from error
    return dict(shapes)


def count_macs(model: nn.Module, shapes: Shapes) -> dict[str, int]:
    """MACs of every layer for one input of the network; 0 for layers that it does not reach.

    Args:
        model: the network.
        shapes: what ``trace_shapes`` returned for it, or for the network it was made from.
    """
    return {
        name: sum(layer_macs(layer, shape) for shape in shapes.get(name, ()))
        for name, layer in find_layers(model).items()
    }


def count_params(module: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())
