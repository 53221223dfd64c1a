"""Whether this processor adds INT8 products exactly.

Without dot products of bytes (VNNI), x86 processors multiply an unsigned by a signed byte and add two
such products in 16 bits, which overflow from 32,767 on and stay there: 2 x 255 x 127 is twice as much.
Weights of seven bits cannot overflow. Which kernel an engine takes is its own affair, so it is asked.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from decompose.utils.optional_dependencies import required

_NUM_PRODUCTS = 64


@cache
def saturates() -> bool:
    """Whether ONNX Runtime's products of unsigned and signed bytes overflow on this processor.

    Raises:
        DecomposeError: onnx or onnxruntime is not installed.
    """
    onnx, ort = required("onnx", "ONNX", "onnx"), required("onnxruntime", "ONNX Runtime", "onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    weights = onnx.numpy_helper.from_array(np.full((_NUM_PRODUCTS, 4), 127, np.int8), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "saturation",
        [helper.make_tensor_value_info("x", kinds.UINT8, (4, _NUM_PRODUCTS))],
        [helper.make_tensor_value_info("y", kinds.INT32, (4, 4))],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.full((4, _NUM_PRODUCTS), 255, np.uint8)})
    return bool((y != 255 * 127 * _NUM_PRODUCTS).any())
