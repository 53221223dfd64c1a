"""The fused kernel in Triton's interpreter gives what the expression gives.

The interpreter is chosen when triton is imported, so it runs in a process of its own.
"""

import os
import subprocess
import sys

import pytest
import torch

from decompose.algebra import Chain, Conv, Geometry, Sum

pytest.importorskip("triton")

CHECK = """
import torch
from decompose.algebra import Conv, Geometry, run
from decompose.inference.triton_kernels import FusedLayer, is_fusible
from decompose.methods import METHODS

torch.manual_seed(0)
for inputs, outputs, taps, stride, padding, dilation, terms, bias in (
    (5, 7, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 2, True),
    (40, 20, (3, 2), (2, 1), ((0, 0), (1, 0)), (1, 2), 3, False),
    (3, 140, (1, 3), (1, 2), ((2, 0), (1, 1)), (1, 1), 1, True),
):
    geometry = Geometry(stride, padding, dilation)
    b = torch.randn(outputs) if bias else None
    conv = Conv(torch.randn(outputs, inputs, *taps), b, geometry)
    expression = METHODS["dw_pw"](conv, terms)
    assert is_fusible(expression)
    x = torch.randn(2, inputs, 9, 8)
    y = FusedLayer(expression)(x)
    torch.testing.assert_close(y, run(expression, x), rtol=1e-4, atol=1e-4)
"""


def test_the_kernel_gives_what_the_branches_give() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_what_can_be_fused() -> None:
    from decompose.inference.triton_kernels import is_fusible

    depthwise = Conv(
        torch.randn(4, 1, 3, 3), geometry=Geometry((1, 1), ((1, 1),) * 2, (1, 1)), groups=4
    )
    pointwise = Conv(torch.randn(6, 4, 1, 1))
    branch = Chain(depthwise, pointwise)
    assert is_fusible(branch)
    assert is_fusible(Sum(branch, branch))
    assert not is_fusible(Chain(Conv(torch.randn(4, 4, 1, 1)), depthwise))
    assert not is_fusible(depthwise)
