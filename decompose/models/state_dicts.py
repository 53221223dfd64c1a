"""Read state dicts without running code, and load them into models."""

from __future__ import annotations

import pickle
import re
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from decompose.utils.errors import DecomposeError, first_line, reason
from decompose.utils.name_patterns import abbreviated

_NESTED_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "params_ema",
)
"""Keys under which trainings store weights; moving averages come last."""

_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
}

_COMPILED = "_orig_mod."
_AVERAGED = "n_averaged"
_RUNNING = ("running_mean", "running_var")
_MOST_NAMED = 5
_COUNTER = "num_batches_tracked"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights in a checkpoint, also a training's; names keep their prefixes.

    Raises:
        DecomposeError: it is damaged, holds none, or holds more than tensors.
    """
    if path.suffix.lower() == ".safetensors":
        try:
            content = load_file(path)
        # A header may hold anything.
        except Exception as error:  # noqa: BLE001
            raise DecomposeError(f"{path}: is damaged: {reason(error)}") from None
        return _plain(content, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise DecomposeError(
            f"{path}: holds {named[1] if named else 'more than tensors'} and is not loaded, since that "
            "could run code; save the state_dict alone"
        ) from None
    # So may a pickle, whose instructions lead anywhere.
    except Exception as error:  # noqa: BLE001
        raise DecomposeError(
            f"{path}: is damaged or no checkpoint of PyTorch: {reason(error)}"
        ) from None
    return _plain(_state_in(content, path), path)


def _state_in(content: Any, path: Path) -> Mapping[Any, Any]:
    """The state dict inside a training checkpoint, at any depth; warns where there are several."""
    while isinstance(content, Mapping):
        found = [key for key in _NESTED_KEYS if isinstance(content.get(key), Mapping)]
        if not found:
            break
        taken, *others = found
        if others:
            also = " and ".join(map(repr, others))
            warnings.warn(
                f"{path}: the weights under {taken!r} are taken, not those under {also}",
                stacklevel=2,
            )
        content = content[taken]
    if not isinstance(content, Mapping) or not content:
        raise DecomposeError(f"{path}: holds no state dict")
    if not all(isinstance(value, Tensor) for value in content.values()):
        raise DecomposeError(f"{path}: holds a dictionary, but not one of tensors")
    return content


def _plain(content: Mapping[Any, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors by name, each with memory of its own.

    Raises:
        DecomposeError: one is sparse, quantised, without data, or of a dtype that is not computed with.
    """
    state: dict[str, Tensor] = {}
    owners: set[int] = set()
    for name, tensor in content.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in _DTYPES:
            kind = "meta" if tensor.is_meta else f"{tensor.layout}, {tensor.dtype}"
            raise DecomposeError(
                f"{path}: {name} is no dense tensor of usual numbers ({kind}); save it as one"
            )
        storage = tensor.untyped_storage()
        overlaps = any(
            step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)
        )
        if overlaps or storage.nbytes() != tensor.nbytes or storage.data_ptr() in owners:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        owners.add(storage.data_ptr())
        state[str(name)] = tensor
    return state


def named_as_in(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a checkpoint's weights to a model's names, without the prefixes of trainings.

    Undone are prefixes that all names share (``module.``, ``model.`` and so on, in any nesting),
    ``_orig_mod.`` of compiled modules, and the masks of pruned ones.

    Args:
        model: the model whose names to use.
        state: by the checkpoint's names.

    >>> model = nn.Sequential(nn.Linear(1, 1))
    >>> wrapped = {f"module._orig_mod.{k}": v for k, v in model.state_dict().items()}
    >>> list(named_as_in(model, wrapped))
    ['0.weight', '0.bias']
    """
    own = model.state_dict().keys()
    found = dict(state)
    if not any(_COMPILED in name for name in own):
        found = {name.replace(_COMPILED, ""): tensor for name, tensor in found.items()}
    if _AVERAGED not in own:
        found.pop(_AVERAGED, None)
    unwrapped = found
    while unwrapped and not own & unwrapped.keys():
        prefixes = {name.partition(".")[0] for name in unwrapped}
        if len(prefixes) > 1 or not all("." in name for name in unwrapped):
            break
        (prefix,) = prefixes
        unwrapped = {name.removeprefix(f"{prefix}."): t for name, t in unwrapped.items()}
        unwrapped = _without_masks(unwrapped, own)
        if own & unwrapped.keys():
            found = unwrapped
    return _without_masks(found, own)


def _without_masks(state: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Weights multiplied by the masks that ``torch.nn.utils.prune`` stores beside them."""
    found = dict(state)
    for name in state:
        whole = name.removesuffix("_orig")
        if whole == name or name in own or f"{whole}_mask" not in state:
            continue
        found[whole] = found.pop(name) * found.pop(f"{whole}_mask")
    return found


def fill(model: nn.Module, state: dict[str, Tensor], source: str) -> nn.Module:
    """Load weights into a model, in the file's dtype.

    Args:
        model: changed in place.
        state: by name.
        source: of the weights, for errors.

    Raises:
        DecomposeError: they are not the model's, or not finite; only buffers may be infinite, as
            masks are.
    """
    whole = completed(model, state, source)
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    for name, tensor in whole.items():
        may_be_infinite = name in buffers and not name.endswith(_RUNNING)
        bad = torch.isnan(tensor) if may_be_infinite else ~torch.isfinite(tensor)
        if bad.any():
            raise DecomposeError(f"{source}: {name} is not finite (NaN or Inf)")
    # Files drop the versions that some modules ask for.
    versioned = OrderedDict(whole)
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    tied = _tied_names(model)
    try:
        model.load_state_dict(versioned, assign=True)
    except RuntimeError as error:
        raise DecomposeError(
            f"{source}: does not fit the architecture; {first_line(error)}"
        ) from None
    for first, *others in tied:
        owner, _, attribute = first.rpartition(".")
        shared = getattr(model.get_submodule(owner), attribute)
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, shared)
    return model


def completed(model: nn.Module, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Complete a state dict with every name that the model has for a weight.

    Raises:
        DecomposeError: they are not those in the file.
    """
    state = dict(state)
    # A file holds a shared tensor once; every name of it is served.
    for names in _tied_names(model):
        stored = [name for name in names if name in state]
        if any(not torch.equal(state[stored[0]], state[name]) for name in stored[1:]):
            raise DecomposeError(
                f"{source}: {abbreviated(stored, _MOST_NAMED)} are one in the model but differ here"
            )
        state |= {name: state[stored[0]] for name in names if stored and name not in state}
    own = model.state_dict()
    # Checkpoints older than this counter do without it, as torch itself lets them.
    state |= {name: own[name] for name in own if _COUNTER in name and name not in state}
    _require_fit(own, state, source)
    return state


def _tied_names(model: nn.Module) -> list[list[str]]:
    """The names of each parameter or buffer that has several."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in chain(
        model.named_parameters(remove_duplicate=False),
        model.named_buffers(remove_duplicate=False),
    ):
        names[id(tensor)].append(name)
    return [group for group in names.values() if len(group) > 1]


def _require_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    misfits = [name for name in own if name in state and state[name].shape != own[name].shape]
    reshaped = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in misfits
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
        hint = "" if missing or unexpected else _classes_hint(own, state, misfits)
        problem = "; ".join(problems)
        raise DecomposeError(f"{source}: does not fit the architecture; {problem}{hint}")


def _classes_hint(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], misfits: Sequence[str]
) -> str:
    """What to give for weights that differ from the model's in the number of classes alone."""
    rows = {state[name].shape[:1] for name in misfits}
    is_classifier = len(rows) == 1 and all(
        own[name].ndim == state[name].ndim
        and own[name].ndim in (1, 2)
        and own[name].shape[1:] == state[name].shape[1:]
        for name in misfits
    )
    return f"; give the architecture num_classes={rows.pop()[0]}" if is_classifier else ""
