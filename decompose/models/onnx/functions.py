"""Inline local functions of ONNX models that hold layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def inline_layers_(content: ir.Model) -> None:
    """Inline the functions that hold layers, or call functions that do.

    A layer in a function is as many layers as the function has calls, each with weights of its own.

    Raises:
        onnx_ir.passes.PassError: functions call one another in a circle, or have other versions.
    """
    from onnx_ir.passes.common import InlinePass

    found: set[ir.OperatorIdentifier] = set()
    while True:
        more = {
            name
            for name, function in content.functions.items()
            if name not in found
            and any(
                n.op_type in _LAYERS or n.op_identifier() in found for n in function.all_nodes()
            )
        }
        if not more:
            break
        found |= more
    if found:
        InlinePass(lambda function: function.identifier() in found)(content)
