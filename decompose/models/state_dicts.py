"""State dicts: read from files without pickle, and filled into networks."""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from decompose.utils.errors import DecomposeError, first_line, reason
from decompose.utils.name_patterns import abbreviated

_NESTED_KEYS = ("state_dict", "model_state_dict", "model")
_MOST_NAMED = 5
_COUNTER = "num_batches_tracked"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, which may be that of a training.

    Raises:
        DecomposeError: it is damaged, holds none, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        try:
            return _unwrap(load_file(path), path)
        except (SafetensorError, OSError) as error:
            raise DecomposeError(f"{path}: is damaged: {reason(error)}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DecomposeError(
            f"{path}: holds more than tensors and is not loaded, since that could run code; save "
            f"the state_dict alone ({first_line(error)})"
        ) from None
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AssertionError,
        struct.error,
    ) as error:
        raise DecomposeError(
            f"{path}: is damaged or no checkpoint of PyTorch: {first_line(error)}"
        ) from None
    return _unwrap(content, path)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside a training checkpoint, without the prefix of data parallelism."""
    for key in _NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise DecomposeError(f"{path}: holds no state dict")
    if not all(isinstance(value, Tensor) for value in content.values()):
        raise DecomposeError(f"{path}: holds a dictionary, but not one of tensors")
    prefix = "module." if all(str(name).startswith("module.") for name in content) else ""
    return {str(name).removeprefix(prefix): value for name, value in content.items()}


def fill(network: nn.Module, state: dict[str, Tensor], source: str) -> nn.Module:
    """Give a network its weights, which keep the file's dtype.

    Args:
        network: changed in place.
        state: by name.
        source: of the weights, for errors.

    Raises:
        DecomposeError: they are not the network's, or not finite.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DecomposeError(f"{source}: {name} is not finite (NaN or Inf)")
    # Files drop the versions that some modules ask for.
    versioned = OrderedDict(completed(network, state, source))
    versioned._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    tied = _tied_names(network)
    try:
        network.load_state_dict(versioned, assign=True)
    except RuntimeError as error:
        raise DecomposeError(
            f"{source}: does not fit the architecture; {first_line(error)}"
        ) from None
    for first, *others in tied:
        owner, _, attribute = first.rpartition(".")
        shared = getattr(network.get_submodule(owner), attribute)
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(owner), attribute, shared)
    return network


def completed(network: nn.Module, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights that a network asks for, under every name that it has for them.

    Raises:
        DecomposeError: they are not those in the file.
    """
    state = dict(state)
    # A file holds a shared tensor once; every name of it is served.
    for names in _tied_names(network):
        stored = [name for name in names if name in state]
        if any(not torch.equal(state[stored[0]], state[name]) for name in stored[1:]):
            raise DecomposeError(
                f"{source}: {abbreviated(stored, _MOST_NAMED)} are one in the network but differ here"
            )
        state |= {name: state[stored[0]] for name in names if stored and name not in state}
    own = network.state_dict()
    # Checkpoints older than this counter do without it, as torch itself lets them.
    state |= {name: own[name] for name in own if _COUNTER in name and name not in state}
    _require_fit(own, state, source)
    return state


def _tied_names(network: nn.Module) -> list[list[str]]:
    """The names of each parameter or buffer that has several."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in chain(
        network.named_parameters(remove_duplicate=False),
        network.named_buffers(remove_duplicate=False),
    ):
        names[id(tensor)].append(name)
    return [group for group in names.values() if len(group) > 1]


def _require_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    reshaped = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = [
        f"{label}: {abbreviated(names, _MOST_NAMED)}"
        for label, names in (
            ("missing keys", missing),
            ("unexpected keys", unexpected),
            ("wrong shapes", reshaped),
        )
        if names
    ]
    if problems:
        raise DecomposeError(f"{source}: does not fit the architecture; {'; '.join(problems)}")
