"""Load the models that arguments of the command line name, alone or together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from decompose.cli.outputs import print_left_alone
from decompose.inference.engine_models import EngineModel, OpenVinoModel, is_openvino
from decompose.layers.batchnorm import fold_pairs, folded_of
from decompose.models import serialization
from decompose.models.architectures import architecture_of
from decompose.models.onnx.module import OnnxModule
from decompose.utils.errors import DecomposeError


def load_model(source: str, arch: str | None, fix: Sequence[str] | None = None) -> nn.Module:
    """Load a model; ``fix`` gives other inputs of an ONNX model, each as ``NAME=NUMBER``."""
    if is_openvino(source):
        raise DecomposeError(
            f"{source}: a model in OpenVINO's format is measured (evaluate, compare, benchmark), not changed"
        )
    model = serialization.load(source, arch, fixed=_parse_fixed(fix))
    if isinstance(model, OnnxModule):
        print_left_alone(model.left_alone)
    return model


def _parse_fixed(texts: Sequence[str] | None) -> dict[str, Tensor | float]:
    """Read ``NAME=NUMBER``: constants of an ONNX model's other inputs."""
    fixed: dict[str, Tensor | float] = {}
    for text in texts or ():
        name, _, number = text.rpartition("=")
        try:
            fixed[name] = float(number)
        except ValueError:
            raise DecomposeError(f"input {text!r}: write NAME=NUMBER") from None
    return fixed


def load_pair(
    original: str, small: str, arch: str | None, fix: Sequence[str] | None = None
) -> tuple[nn.Module, nn.Module]:
    """Load a model and the smaller one made from it, as ``load_all``."""
    before, after = _load_each([original, small], arch, fix)
    return before, after


def load_all(
    sources: Sequence[str], arch: str | None, fix: Sequence[str] | None = None
) -> dict[str, nn.Module]:
    """Load a model and others made from it, or no others, by name.

    Args:
        sources: of the models; beside those that ``load`` takes, models in OpenVINO's format.
        arch: the architecture of those checkpoints that do not name theirs; by default a first one
            takes that of the others.
        fix: other inputs of ONNX models, each as ``NAME=NUMBER``.

    Returns:
        The models; BatchNorm is folded in the first where it is in the second.

    Raises:
        DecomposeError: a model cannot be loaded, or none needs the architecture.
    """
    return dict(zip(sources, _load_each(sources, arch, fix), strict=True))


def _load_each(
    sources: Sequence[str], arch: str | None, fix: Sequence[str] | None
) -> list[nn.Module]:
    fixed = _parse_fixed(fix)
    if fixed and not any(map(serialization.is_onnx, sources)):
        raise DecomposeError(f"{', '.join(sources)}: --fix is for the inputs of an ONNX model")
    first, *others = sources
    if not others:
        return [_load_any(first, arch, fixed)]
    unnamed = [source for source in sources if _is_unnamed(source)]
    if arch is not None and not unnamed:
        raise DecomposeError(f"{', '.join(sources)}: have architectures already; give no --arch")
    made = [_load_any(source, arch if source in unnamed else None, fixed) for source in others]
    modules = [model for model in made if not isinstance(model, OnnxModule | EngineModel)]
    named = arch or next(filter(None, map(architecture_of, modules)), None)
    before = _load_any(first, str(named) if named and first in unnamed else None, fixed)
    if modules and not isinstance(before, OnnxModule | EngineModel):
        before = fold_pairs(before, folded_of(modules[0]))
    return [before, *made]


def _is_unnamed(source: str) -> bool:
    return not is_openvino(source) and serialization.is_unnamed_checkpoint(source)


def _load_any(source: str, arch: str | None, fixed: Mapping[str, Tensor | float]) -> nn.Module:
    """Load a model of any kind that can be measured."""
    if is_openvino(source):
        if arch is not None:
            raise DecomposeError(f"{source}: has its own architecture; give no other")
        return OpenVinoModel(source)
    return serialization.load(source, arch, fixed=fixed if serialization.is_onnx(source) else None)
