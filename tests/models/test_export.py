"""Networks as ONNX files."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import decompose
from decompose.models import export
from decompose.models.export import to_onnx
from decompose.utils.errors import DecomposeError
from tests.support.strategies import Mixed

X = torch.randn(1, 3, 32, 32)


def test_the_file_takes_any_batch_and_gives_what_torch_gives(tmp_path: Path) -> None:
    network = Mixed().train()
    small = decompose.apply(decompose.plan(network, X, rank=2), network)
    path = tmp_path / "small.onnx"
    assert 0 <= to_onnx(small, X, path) < 1e-4
    assert network.training
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = small.eval()(x)
    given = session.run(None, {"input": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(given), expected, rtol=1e-4, atol=1e-4)


def test_nothing_is_written_that_deviates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(DecomposeError, match="onnxruntime deviates from torch"):
        to_onnx(Mixed(), X, tmp_path / "bad.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_message_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DecomposeError, match=r"pip install 'torch-decompose\[onnx\]'"):
        to_onnx(Mixed(), X, tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ([1.0, -np.inf, 2.5], 0.25),
        ([np.nan, -np.inf, 2.0], np.inf),
        ([1.0, 0.0, 2.0], np.inf),
        ([1.0, -np.inf, np.inf], np.inf),
    ],
)
def test_masked_scores_are_compared_as_such(ours: list[float], expected: float) -> None:
    theirs = np.array([1.0, -np.inf, 2.0])
    assert export._relative_difference(np.array(ours), theirs) == pytest.approx(expected)
