"""Networks as ONNX files, checked against torch as they are written."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from decompose.layers.forward import evaluating, floating_tensors
from decompose.layers.modules import to_expression
from decompose.models.onnx.network import OnnxNetwork
from decompose.models.onnx.nodes import to_onnx_model
from decompose.models.onnx.rewriting import self_contained
from decompose.models.onnx.writing import model_bytes
from decompose.utils.errors import DecomposeError, first_line
from decompose.utils.files import writing
from decompose.utils.optional_dependencies import required

TOLERANCE = 1e-4
"""Largest relative deviation of an exported network's output from torch's."""


def to_onnx(model: nn.Module, example: Tensor, path: str | Path) -> float:
    """Write a network to an ONNX file, once onnxruntime gives what torch gives.

    Args:
        model: left as it was.
        example: one batch; the file's batch may be any other.
        path: the file, replaced as a whole.

    Returns:
        The largest deviation of an output, relative to the largest absolute value there.

    Raises:
        DecomposeError: onnx, onnxscript or onnxruntime is not installed, the exporter cannot take
            the network, or the exported one gives something else than torch.
    """
    if isinstance(model, OnnxNetwork):
        raise DecomposeError("the network is an ONNX model already; save it as one")
    content = to_onnx_bytes(model, example)
    deviation = _deviation(model, example, content)
    if not deviation <= TOLERANCE:
        raise DecomposeError(
            f"{path}: not written: onnxruntime deviates from torch by {deviation:.1e}, more than "
            f"{TOLERANCE:g}"
        )
    with writing(path) as temporary:
        temporary.write_bytes(content)
    return deviation


def to_onnx_bytes(model: nn.Module, example: Tensor) -> bytes:
    """A network as an ONNX model, by torch's own exporter, with a batch of any size.

    Of a single layer the nodes are written directly, in a thousandth of the time; a network that came
    as an ONNX model is that one, made to take what the network takes.

    Raises:
        DecomposeError: as ``to_onnx``; or the model that it came as takes one input at a time.
    """
    if isinstance(model, OnnxNetwork):
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
    # A batch of one would be taken for a constant.
    batch = example if len(example) > 1 else example.expand(2, *example.shape[1:])
    batch = batch.to(next(model.parameters(), batch).device)
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
            raise DecomposeError(f"torch cannot export the network: {first_line(error)}") from error
    return program.model_proto.SerializeToString()


def _deviation(model: nn.Module, example: Tensor, content: bytes) -> float:
    ort = required("onnxruntime", "ONNX Runtime", "onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    given = session.run(None, {session.get_inputs()[0].name: example.cpu().numpy()})
    with evaluating(model):
        wanted = floating_tensors(model(example))
    return max(
        _relative_difference(ours, theirs.cpu().numpy())
        for ours, theirs in zip(given, wanted, strict=True)
    )


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
    """Without the exporter's warnings and log, of which none concerns the reader."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
