"""Export models to files for engines, each checked against torch before it is written.

ONNX for ONNX Runtime and most others, torch's own exported programs (``.pt2``), and OpenVINO's
representation (``.xml``, its weights beside it in ``.bin``).
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from decompose.layers.forward import evaluating, floating_tensors
from decompose.layers.modules import to_expression
from decompose.models.onnx.expression_nodes import to_onnx_model
from decompose.models.onnx.module import OnnxModule
from decompose.models.onnx.rewriting import self_contained
from decompose.models.onnx.writing import model_bytes
from decompose.models.openvino_core import openvino_core
from decompose.utils.errors import DecomposeError, first_line
from decompose.utils.files import writing, writing_together
from decompose.utils.optional_dependencies import required

TOLERANCE = 1e-4
"""Largest relative deviation of an exported model's output from torch's."""


def export(model: nn.Module, example: Tensor, path: str | Path) -> float:
    """Export a model in the format of the file's suffix: ``.onnx``, ``.pt2`` or ``.xml``.

    Args:
        model: any module; left as it was.
        example: one batch ``(batch, ...)``; the file takes batches of any size, except from an ONNX
            model that takes one input at a time.
        path: the file, replaced as a whole.

    Returns:
        The largest deviation of an output, relative to the largest absolute value there.

    Raises:
        DecomposeError: the name ends otherwise, a package is not installed, the exporter cannot take the
            model, or the exported one gives something else than torch.
    """
    if isinstance(model, OnnxModule) and model.signature.batch == 1:
        example = example[:1]
    return _exporter(path)(model, example, path)


def require_exported_name(path: str | Path) -> None:
    """Check that a file's name ends in a suffix that ``export`` knows.

    Raises:
        DecomposeError: it does not.
    """
    _exporter(path)


def _exporter(path: str | Path) -> Callable[[nn.Module, Tensor, str | Path], float]:
    exporters = {".onnx": to_onnx, ".pt2": to_pt2, ".xml": to_openvino}
    if (found := exporters.get(Path(path).suffix.lower())) is None:
        raise DecomposeError(f"{path}: end its name in .onnx, .pt2 or .xml")
    return found


def to_onnx(model: nn.Module, example: Tensor, path: str | Path) -> float:
    """Export a model to an ONNX file, checked in ONNX Runtime before it is written.

    Args:
        model: any module; left as it was.
        example: one batch ``(batch, ...)`` in the model's dtype; the file takes batches of any size.
        path: the file, replaced as a whole.

    Returns:
        The largest deviation of an output from torch's, relative to its largest absolute value.

    Raises:
        DecomposeError: onnx, onnxscript or onnxruntime is not installed, the exporter cannot take
            the model, or the exported model's outputs differ from torch's.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> import decompose
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval()
        >>> path = Path(tempfile.mkdtemp(), "model.onnx")
        >>> decompose.to_onnx(model, torch.rand(1, 3, 8, 8), path) < 1e-4
        True
    """
    if isinstance(model, OnnxModule):
        raise DecomposeError("the model is an ONNX model already; save it as one")
    content = to_onnx_bytes(model, example)
    deviation = _checked(model, example, _run_in_onnxruntime(content, example), path, "onnxruntime")
    with writing(path) as temporary:
        temporary.write_bytes(content)
    return deviation


def to_pt2(model: nn.Module, example: Tensor, path: str | Path) -> float:
    """Export a model as torch's exported program, loaded again and checked before it is written.

    Args, returns and errors are those of ``to_onnx``.
    """
    if isinstance(model, OnnxModule):
        raise DecomposeError("an ONNX model cannot become a .pt2; export it as .xml")
    batch = _with_open_batch(model, example)
    with writing(path) as temporary:
        with evaluating(model), _quiet():
            try:
                dims = ({0: torch.export.Dim.DYNAMIC},)
                program = torch.export.export(model, (batch,), dynamic_shapes=dims)
                with temporary.open("wb") as file:
                    torch.export.save(program, file)
                with temporary.open("rb") as file:
                    loaded = torch.export.load(file).module()
            # What the exporter raises on models that it cannot trace has no base of its own.
            except (RuntimeError, ValueError, TypeError, AssertionError, LookupError) as error:
                raise DecomposeError(
                    f"torch cannot export the model: {first_line(error)}"
                ) from error
        with torch.no_grad():
            given = [
                y.numpy(force=True) for y in floating_tensors(loaded(example.to(batch.device)))
            ]
        return _checked(model, example, given, path, "the exported program")


def to_openvino(model: nn.Module, example: Tensor, path: str | Path) -> float:
    """Export a model to OpenVINO, ``.bin`` and then ``.xml``, checked before it is written.

    Args, returns and errors are those of ``to_onnx``; the model may have been loaded from ONNX.
    """
    ov = required("openvino", "OpenVINO", "openvino")
    core, path = openvino_core(), Path(path)
    with tempfile.TemporaryDirectory() as folder:
        ov.save_model(
            core.read_model(to_onnx_bytes(model, example)),
            Path(folder) / "model.xml",
            compress_to_fp16=False,
        )
        files = {f.suffix: f.read_bytes() for f in Path(folder).iterdir()}
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(files[".xml"], files[".bin"]), "CPU", settings)
    outputs = compiled([example.numpy(force=True)]).values()
    given = [np.array(y) for y in outputs if y.dtype.kind == "f"]
    deviation = _checked(model, example, given, path, "OpenVINO")
    # The file that names the other comes last.
    with writing_together():
        for name, content in ((path.with_suffix(".bin"), files[".bin"]), (path, files[".xml"])):
            with writing(name) as temporary:
                temporary.write_bytes(content)
    return deviation


def to_onnx_bytes(model: nn.Module, example: Tensor) -> bytes:
    """Convert a model to ONNX by torch's own exporter, with a batch of any size.

    Of a single layer the nodes are written directly, in a thousandth of the time; a model that came
    as an ONNX model is that one, made to take what the model takes.

    Raises:
        DecomposeError: as ``to_onnx``; or the model that it came as takes one input at a time.
    """
    if isinstance(model, OnnxModule):
        if model.signature.batch not in (None, len(example)):
            raise DecomposeError(f"the ONNX model takes one input at a time, not {len(example)}")
        return model_bytes(self_contained(model))
    required("onnx", "ONNX", "onnx")
    try:
        expression = to_expression(model)
    except TypeError:
        return _exported(model, example)
    return to_onnx_model(expression, example.shape).SerializeToString()


def _exported(model: nn.Module, example: Tensor) -> bytes:
    # The exporter's, which would say less when it is missing.
    required("onnxscript", "ONNX Script", "onnx")
    batch = _with_open_batch(model, example)
    with evaluating(model), _quiet():
        try:
            program = torch.onnx.export(
                model,
                (batch,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                input_names=["input"],
                optimize=True,
                verbose=False,
            )
            assert program is not None
        except torch.onnx.OnnxExporterError as error:
            raise DecomposeError(f"torch cannot export the model: {first_line(error)}") from error
    return program.model_proto.SerializeToString()


def _with_open_batch(model: nn.Module, example: Tensor) -> Tensor:
    """An example on the model's device, of two inputs at least: one would be taken for a constant."""
    batch = example if len(example) > 1 else example.expand(2, *example.shape[1:])
    return batch.to(next(model.parameters(), batch).device)


def _run_in_onnxruntime(content: bytes, example: Tensor) -> list[np.ndarray]:
    ort = required("onnxruntime", "ONNX Runtime", "onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: example.cpu().numpy()})


def _checked(
    model: nn.Module, example: Tensor, given: Sequence[np.ndarray], path: str | Path, engine: str
) -> float:
    """Check an engine's outputs against torch's; the largest relative difference.

    Raises:
        DecomposeError: further than ``TOLERANCE``.
    """
    with evaluating(model):
        expected = floating_tensors(model(example))
    deviation = max(
        _relative_difference(ours, theirs.cpu().numpy())
        for ours, theirs in zip(given, expected, strict=True)
    )
    if not deviation <= TOLERANCE:
        raise DecomposeError(
            f"{path}: not written: {engine} deviates from torch by {deviation:.1e}, more than "
            f"{TOLERANCE:g}"
        )
    return deviation


def _relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest of theirs; infinite where NaN or Inf differ."""
    finite = np.isfinite(theirs)
    if ours.shape != theirs.shape or not np.array_equal(
        ours[~finite], theirs[~finite], equal_nan=True
    ):
        return np.inf
    largest = np.abs(theirs[finite]).max(initial=1e-30)
    difference = float(np.abs(ours[finite] - theirs[finite]).max(initial=0.0) / largest)
    return np.inf if np.isnan(difference) else difference


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings and log, none of which concern the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
