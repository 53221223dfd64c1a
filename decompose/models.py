"""Networks from names and files, and back to files, without pickle.

A saved file is a safetensors file whose header tells what rebuilds the network: the plan, and the
architecture's name where it has one, which normalisations were folded where any were, and whether the
weights come from pretrained ones. ::

    {"format": "pt", "decompose": '{"version": 1, "architecture": "torchvision:vgg16", "plan": ...,
                                    "weights": "(SHA-256)"}'}
"""

from __future__ import annotations

import copy
import json
import pickle
import struct
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from decompose.architectures import (
    Architecture,
    Preprocessing,
    architecture_of,
    is_architecture_name,
    is_pretrained,
    preprocessing_of,
    remember_architecture,
    remember_pretrained,
)
from decompose.convert import plan_of, rebuild
from decompose.errors import DecomposeError, first_line
from decompose.files import parse_json, writing
from decompose.folding import fold_pairs, folded_of
from decompose.layers import find_layers
from decompose.modules import ORIGINALS, give_bias
from decompose.onnx_files import read_model
from decompose.onnx_network import OnnxNetwork
from decompose.onnx_rewriting import write_network
from decompose.plans import Plan
from decompose.provenance import weights_digest

_HEADER, _VERSION = "decompose", 1
_NESTED_KEYS = ("state_dict", "model_state_dict", "model")
_MOST_NAMED = 5
_ONNX = ".onnx"
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Header:
    """What a saved file says of its network, besides the weights."""

    architecture: Architecture | None
    plan: Plan
    folded: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None
    """Of the weights; files of earlier days have none."""
    pretrained: bool = False
    """Whether the weights come from the architecture's own."""


def load(
    source: str | Path,
    model: nn.Module | str | None = None,
    *,
    fixed: Mapping[str, Tensor | float] | None = None,
) -> nn.Module:
    """A network with its weights, in evaluation mode if it is built here.

    Args:
        source: an architecture's name (``torchvision:resnet18``, ``pypi:vgg16_features``), a file
            that ``save`` wrote, a state dict in ``.pth``, ``.pt`` or ``.safetensors``, or an ONNX
            model, ``.onnx``.
        model: the architecture of a file: its name, or a module, which is left as it was. A file
            that ``save`` wrote needs it only where its architecture has no name, and an ONNX model
            has its own.
        fixed: what an ONNX model's inputs besides the one are always given, by name: a tensor, or a
            number that fills it.

    Raises:
        DecomposeError: there is no such file, it is damaged, it would run code, its weights are
            not finite, or they do not fit the architecture.
    """
    if is_onnx(source):
        if model is not None:
            raise DecomposeError(f"{source}: an ONNX model has its own architecture; give no other")
        return _load_onnx(Path(source), fixed or {})
    if fixed:
        raise DecomposeError(f"{source}: only the inputs of an ONNX model can be fixed")
    if is_architecture_name(str(source)):
        if model is not None:
            raise DecomposeError(f"{source}: is an architecture already; give no other")
        architecture = Architecture.parse(str(source))
        network, state = _build(architecture), architecture.pretrained_state()
        if state is None:
            return network
        remember_pretrained(network)
        return _fill(network, state, str(source))
    path = Path(source)
    header, state = read_header(path), _read_state(path)
    network = _fill(_network(model, header, state, path), state, str(path))
    told = None if header is None else header.digest
    if told is not None and told != weights_digest(network):
        raise DecomposeError(f"{path}: is damaged: its weights are not those that were saved")
    if header is not None and header.pretrained:
        remember_pretrained(network)
    return network


def save(model: nn.Module, path: str | Path) -> None:
    """Write a network's weights, plan and architecture's name to a safetensors file.

    What came as an ONNX model leaves as one, in which the nodes of rewritten layers are replaced.

    Args:
        model: a network, rewritten or not.
        path: the file, replaced as a whole.

    Raises:
        DecomposeError: the file cannot be written, or its name ends in something else.
    """
    require_saved_name(path, is_onnx=isinstance(model, OnnxNetwork))
    if isinstance(model, OnnxNetwork):
        write_network(model, path)
        return
    architecture = architecture_of(model)
    record = {
        "version": _VERSION,
        "architecture": None if architecture is None else str(architecture),
        "plan": json.loads(plan_of(model).to_json()),
        "weights": weights_digest(model),
    }
    if folded := folded_of(model):
        record["folded"] = folded
    if is_pretrained(model):
        record["pretrained"] = True
    with writing(path) as temporary:
        save_model(model, str(temporary), {"format": "pt", _HEADER: json.dumps(record)})


def read_header(path: str | Path) -> Header | None:
    """What a file that ``save`` wrote says of its network; ``None`` for any other file.

    Raises:
        DecomposeError: there is no such file, or it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "no such file"
        raise DecomposeError(f"{path}: {kind}")
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER)
    except (SafetensorError, OSError) as error:
        raise DecomposeError(f"{path}: is damaged or no safetensors file: {error}") from None
    if text is None:
        return None
    record = parse_json(text, f"{path}: its header")
    try:
        version, name, plan = record["version"], record["architecture"], record["plan"]
        digest = record.get("weights")
        folded = {str(layer): str(norm) for layer, norm in record.get("folded", {}).items()}
        pretrained = record.get("pretrained") is True
    except (TypeError, KeyError, AttributeError):
        raise DecomposeError(f"{path}: its header is damaged") from None
    if version != _VERSION:
        raise DecomposeError(f"{path}: was saved in format {version}; this is {_VERSION}")
    if not isinstance(name, str | None):
        raise DecomposeError(f"{path}: its header is damaged: {name!r} names no architecture")
    architecture = None if name is None else Architecture.parse(name)
    return Header(architecture, Plan.from_record(plan, str(path)), folded, digest, pretrained)


def required_preprocessing(model: nn.Module) -> Preprocessing:
    """What a network takes: as its architecture's name tells, or as was said of it.

    Raises:
        DecomposeError: nothing tells.
    """
    preprocessing = preprocessing_of(model)
    if preprocessing is None and isinstance(model, OnnxNetwork):
        raise DecomposeError(
            "an ONNX model does not tell how it takes its pictures; only compress --calibrate is told"
        )
    if preprocessing is None:
        raise DecomposeError(
            "the network's architecture has no name, which would tell its input size and "
            "preprocessing"
        )
    return preprocessing


def is_unnamed_checkpoint(source: str | Path) -> bool:
    """Whether a source is a file that does not say which architecture its weights are of.

    Raises:
        DecomposeError: there is no such file, or it is damaged.
    """
    if is_architecture_name(str(source)) or is_onnx(source):
        return False
    header = read_header(source)
    return header is None or header.architecture is None


def require_saved_name(path: str | Path, *, is_onnx: bool = False) -> None:
    """Check the name of a file to be saved.

    Args:
        path: of the file.
        is_onnx: whether the network came as an ONNX model, and leaves as one.

    Raises:
        DecomposeError: it does not end in .safetensors or .onnx, by which ``load`` knows such a file.
    """
    suffix, what = (_ONNX, "an ONNX model") if is_onnx else (".safetensors", "safetensors")
    if Path(path).suffix != suffix:
        raise DecomposeError(f"{path}: is to hold {what}; end its name in {suffix}")


def is_onnx(source: str | Path) -> bool:
    """Whether a source is the name of an ONNX file."""
    return not is_architecture_name(str(source)) and Path(source).suffix == _ONNX


def _load_onnx(path: Path, fixed: Mapping[str, Tensor | float]) -> OnnxNetwork:
    model = read_model(path)
    try:
        return OnnxNetwork(model, fixed)
    except DecomposeError as error:
        raise DecomposeError(f"{path}: {error}") from None


def _build(architecture: Architecture) -> nn.Module:
    network = architecture.build()
    remember_architecture(network, architecture)
    return network


def _network(
    model: nn.Module | str | None, header: Header | None, state: Mapping[str, Tensor], path: Path
) -> nn.Module:
    """What a file's weights are to be filled into."""
    if isinstance(model, nn.Module):
        return copy.deepcopy(model) if header is None else _rewritten(model, header, state)
    named = header and header.architecture if model is None else Architecture.parse(model)
    if named is None:
        raise DecomposeError(
            f"{path}: holds weights without the name of an architecture; give it (--arch NAME, or "
            "load(path, model))"
        )
    # The name may be anybody's, and may ask for more memory than there is: first it is seen to be
    # of the size that the weights are.
    if (sketch := named.sketch()) is not None:
        _completed(_rewritten(sketch, header, state), state, str(path))
    return _rewritten(_build(named), header, state)


def _rewritten(network: nn.Module, header: Header | None, state: Mapping[str, Tensor]) -> nn.Module:
    """The network as the file's plan has it."""
    if header is not None:
        if header.folded:
            network = fold_pairs(network, header.folded)
        network = rebuild(header.plan, network)
        _admit_biases(network, state)
    return network


def _admit_biases(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Make room for the biases that repair gave to layers without one, recomposed ones as well."""
    for name, layer in find_layers(network).items():
        for inner, leaf in layer.named_modules(prefix=name):
            if isinstance(leaf, ORIGINALS) and leaf.bias is None and f"{inner}.bias" in state:
                give_bias(leaf)


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return _unwrap(load_file(path), path)
        except (SafetensorError, OSError) as error:
            raise DecomposeError(f"{path}: is damaged: {error}") from None
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


def _fill(network: nn.Module, state: dict[str, Tensor], source: str) -> nn.Module:
    """Give a network its weights, which keep the file's dtype."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DecomposeError(f"{source}: {name} is not finite (NaN or Inf)")
    # Files drop the versions that some modules ask for.
    versioned = OrderedDict(_completed(network, state, source))
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


def _completed(network: nn.Module, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
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
                f"{source}: {_some(stored)} are one in the network but differ here"
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
        f"{label}: {_some(names)}"
        for label, names in (
            ("missing keys", missing),
            ("unexpected keys", unexpected),
            ("wrong shapes", reshaped),
        )
        if names
    ]
    if problems:
        raise DecomposeError(f"{source}: does not fit the architecture; {'; '.join(problems)}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
