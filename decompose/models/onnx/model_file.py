"""Read ONNX files: the graph and its weights, each in memory once.

A model in memory is an ``onnx_ir.Model`` whose tensors are arrays of their own, or mapped from the disk
where they lie in files beside the graph. So nothing of the file's own message stays in memory, and the
weights can be left out where a graph is checked or its shapes are inferred.
"""

from __future__ import annotations

import logging
import mmap
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decompose.models.onnx.functions import inline_layers_
from decompose.models.onnx.tensors import owned
from decompose.utils.errors import DecomposeError, first_line
from decompose.utils.optional_dependencies import required

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx import ModelProto, NodeProto

LARGE = 1024
"""Bytes above which an initialiser is left out of the graph without weights."""

FLOATING: Mapping[int, np.dtype] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}
"""Floating types that torch has too, as stored, by ``TensorProto.DataType``."""

_MIN_OPSET = 7

_INVALID = (AssertionError, LookupError, RuntimeError, TypeError, ValueError)
"""Exceptions of onnx and onnx_ir on damaged models, besides errors of their own."""


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A model in memory; never changed, so that copies of a module share it.

    Attributes:
        content: graph, functions, versions and metadata.
        is_external: whether its file keeps weights in other files.
    """

    content: ir.Model
    is_external: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxModel:
        return self

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return _opset(self.content)

    @cached_property
    def nodes(self) -> Sequence[ir.Node]:
        """The nodes of the graph, without those of bodies and functions."""
        return tuple(self.content.graph)

    @cached_property
    def weights(self) -> Mapping[str, ir.Value]:
        """The large initialisers, by name."""
        values = self.content.graph.initializers
        return {name: value for name, value in values.items() if array_of(value).nbytes > LARGE}

    def without_weights(self, given: Mapping[str, Sequence[int]] | None = None) -> ModelProto:
        """The graph with its large weights as inputs: small, valid, and of the same shapes.

        Args:
            given: shapes of inputs by name, in place of their own.
        """
        import onnx_ir as ir

        content = self.content.clone()
        for name in self.weights:
            value = content.graph.initializers.pop(name)
            if not value.is_graph_input():
                set_type(value)
                content.graph.inputs.append(value)
        for value in content.graph.inputs:
            if shape := (given or {}).get(str(value.name)):
                value.shape = ir.Shape(shape)
        return ir.to_proto(content)


def set_type(value: ir.Value) -> None:
    """Give an initialiser the type of its tensor, which only inputs need."""
    import onnx_ir as ir

    tensor = value.const_value
    assert tensor is not None
    value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())


def array_of(value: ir.Value) -> np.ndarray:
    """The data of an initialiser, without a copy."""
    assert value.const_value is not None
    return value.const_value.numpy()


def read_model(path: str | Path) -> OnnxModel:
    """Read a model, with the external data that lies beside it, and check it.

    Raises:
        DecomposeError: onnx is not installed, there is no such file, or it is damaged, invalid or too
            old.
    """
    path = Path(path)
    required("onnx", "ONNX", "onnx")
    required("onnx_ir", "ONNX IR", "onnx")
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "no such file"
        raise DecomposeError(f"{path}: {kind}")
    proto = onnx.ModelProto()
    try:
        with path.open("rb") as file, _mapped(file) as content:
            proto.ParseFromString(content)  # type: ignore[arg-type]
    except (DecodeError, OSError, ValueError) as error:
        raise DecomposeError(f"{path}: is damaged or no ONNX file: {first_line(error)}") from None
    try:
        model = to_model(proto, path)
        check_model(model)
    except DecomposeError as error:
        raise DecomposeError(f"{path}: {error}") from None
    return model


def to_model(proto: ModelProto, path: Path = Path("model.onnx")) -> OnnxModel:
    """Convert a protobuf message to a model whose tensors no longer refer to it.

    Args:
        proto: the message.
        path: the file that it is of; external data lies beside it.

    Raises:
        DecomposeError: it contradicts itself, or holds what would be lost.
    """
    import onnx_ir as ir
    from onnx import checker

    for name in ("sparse_initializer", "training_info"):
        if len(getattr(proto, name, ())) or len(getattr(proto.graph, name, ())):
            raise DecomposeError(f"has a {name}, which cannot be kept; export it without")
    counts = Counter(tensor.name for tensor in proto.graph.initializer)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DecomposeError(f"the initialiser {twice[0]} is there twice")
    try:
        # Of an attribute that says two things, onnx_ir would keep one.
        for node in chain(proto.graph.node, *(function.node for function in proto.functions)):
            _check_attributes(node)
        with _quiet():
            content = ir.from_proto(proto)
            functions = content.functions.values()
            is_external = False
            for graph in chain(content.graphs(), *(f.subgraphs() for f in functions)):
                for value in graph.initializers.values():
                    assert value.const_value is not None
                    is_external |= isinstance(value.const_value, ir.ExternalTensor)
                    value.const_value = owned(value.const_value, path)
                    if not value.is_graph_input():
                        # The tensor says the same, and what is said here would be written.
                        value.type = value.shape = None
            for node in chain(content.graph.all_nodes(), *(f.all_nodes() for f in functions)):
                for key, attribute in node.attributes.items():
                    if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                        tensor = owned(attribute.as_tensor(), path)
                        node.attributes[key] = ir.AttrTensor(key, tensor, attribute.doc_string)
            inline_layers_(content)
    except (*_INVALID, checker.ValidationError, ir.serde.SerdeError, ir.passes.PassError) as error:
        raise DecomposeError(f"is no valid model: {first_line(_origin(error))}") from None
    return OnnxModel(content, is_external)


def check_model(model: OnnxModel) -> None:
    """Check a model against ONNX's rules, and that its opset is one that is known here.

    Raises:
        DecomposeError: it is not.
    """
    import onnx_ir as ir
    from onnx import checker

    if (opset := _opset(model.content)) == 0:
        raise DecomposeError("names no version of ONNX's operators")
    if opset < _MIN_OPSET:
        raise DecomposeError(
            f"is of opset {opset}; {_MIN_OPSET} is the least: convert it with "
            "onnx.version_converter"
        )
    try:
        with _quiet():
            proto = model.without_weights()
        checker.check_model(proto)
    except (*_INVALID, checker.ValidationError, ir.serde.SerdeError) as error:
        raise DecomposeError(f"is no valid model: {first_line(_origin(error))}") from None


def _check_attributes(node: NodeProto) -> None:
    """Check the attributes of a node and of those in its bodies; raises onnx's ``ValidationError``."""
    from onnx import checker

    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                _check_attributes(inner)
        if not attribute.HasField("g") and not attribute.graphs:
            checker.check_attribute(attribute)


def _opset(content: ir.Model) -> int:
    """The version of ONNX's own operators, or 0 where none is named."""
    versions = (content.opset_imports.get(domain, 0) for domain in ("", "ai.onnx"))
    return max(versions)


def _origin(error: Exception) -> Exception:
    """The first of a chain of errors, which has the cause."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


@contextmanager
def _mapped(file: Any) -> Iterator[memoryview]:
    """Map a file's content without a copy."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        try:
            yield view
        finally:
            view.release()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of onnx and onnx_ir about damaged models, which the checker refuses."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
