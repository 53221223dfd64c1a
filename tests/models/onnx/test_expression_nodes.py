"""An expression's ONNX graph gives what the expression gives."""

import operator

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from decompose.algebra import Expression, run
from decompose.layers.modules import to_conv
from decompose.methods import METHODS
from decompose.methods.pooling import pooled
from decompose.models.onnx.expression_nodes import to_onnx_model
from tests.support.strategies import Case, conv_cases


def run_onnx(expression: Expression, x: Tensor) -> Tensor:
    model = to_onnx_model(expression, x.shape)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases(), st.data())
def test_every_convolution_and_what_methods_make_of_it(case: Case, data: st.DataObject) -> None:
    module, x = case
    conv = to_conv(module.float())
    geometry = conv.geometry
    # ONNX Runtime takes no more, though torch does.
    assume(all(map(operator.lt, geometry.output_padding, geometry.stride)))
    x = x.float()
    expressions: list[Expression] = [conv]
    able = [name for name, method in METHODS.items() if method.why_not(conv) is None]
    if able:
        method = METHODS[data.draw(st.sampled_from(able))]
        expressions.append(method(conv, data.draw(st.integers(1, min(4, method.max_rank(conv))))))
    for expression in expressions:
        torch.testing.assert_close(
            run_onnx(expression, x), run(expression, x), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("bias", [True, False])
def test_fully_connected_layers_take_any_number_of_axes_before_the_last(bias: bool) -> None:
    expression = to_conv(torch.nn.Linear(5, 3, bias=bias))
    for x in (torch.randn(2, 5), torch.randn(2, 7, 5)):
        torch.testing.assert_close(run_onnx(expression, x), run(expression, x))


def test_the_mean_over_all_positions() -> None:
    expression = pooled(to_conv(torch.nn.Conv2d(5, 3, 1)))
    x = torch.randn(2, 5, 4, 6)
    torch.testing.assert_close(run_onnx(expression, x), run(expression, x))
