"""Every engine gives what torch gives."""

import sys
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose.inference.engines import _Replay, default_engine, get_engine
from decompose.utils.errors import DecomposeError
from tests.support.models import Viewing
from tests.support.strategies import Mixed


@pytest.mark.parametrize("name", ["eager", "onnxruntime", "openvino"])
def test_a_prepared_network_gives_what_it_gives_in_torch(name: str) -> None:
    x = torch.randn(2, 3, 32, 32)
    model = Mixed()
    small = decompose.apply(decompose.plan(model, x, rank=2), model).eval()
    with torch.no_grad():
        expected = small(x)
    engine = get_engine(name)
    given: Any = engine.prepare(small, x, 1)()
    first = given if isinstance(given, Tensor) else torch.from_numpy(given[0])
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-4)
    assert engine.version()


def test_a_model_that_views_maps_as_rows_runs() -> None:
    model, x = Viewing().eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(get_engine("eager").prepare(model, x, 1)(), model(x))


def test_engines_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DecomposeError, match="there are: eager, compile, onnxruntime, openvino, cudagraph, triton"
    ):
        get_engine("tensorrt")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        DecomposeError, match=r"OpenVINO is not installed: pip install 'torch-decompose"
    ):
        get_engine("openvino")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
@pytest.mark.parametrize("name", ["cudagraph", "triton"])
def test_engines_that_need_a_gpu(name: str) -> None:
    if name == "triton":
        pytest.importorskip("triton")
    with pytest.raises(DecomposeError, match="needs a GPU"):
        get_engine(name).prepare(Mixed(), torch.zeros(1, 3, 32, 32), 1)


def test_latencies_are_budgeted_in_a_graph_on_a_gpu() -> None:
    assert default_engine(torch.device("cuda")) == "cudagraph"
    assert default_engine(torch.device("cpu")) == "eager"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore")  # of the compiler, other ones on each GPU
@pytest.mark.parametrize("name", ["eager", "compile", "cudagraph", "triton"])
def test_engines_on_a_gpu(name: str) -> None:
    x = torch.randn(2, 3, 32, 32, device="cuda")
    model = Mixed().cuda()
    small = decompose.apply(decompose.plan(model, x, method="dw_pw", rank=2), model).eval()
    with torch.no_grad():
        expected = small(x)
    given: Any = get_engine(name).prepare(small, x, 1)()
    torch.testing.assert_close(given, expected, rtol=1e-2, atol=1e-2)


def test_every_model_is_compiled_for_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def count(graph: Any, inputs: Sequence[Any]) -> Any:
        compiled.append([x.shape[0] for x in inputs if x.ndim == 4])
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    num = torch._dynamo.config.recompile_limit + 2
    for batch in range(1, num + 1):
        x = torch.randn(batch, 3, 8, 8)
        model = nn.Conv2d(3, 4, 3).eval()
        run: Any = get_engine("compile").prepare(model, x, 1)
        torch.testing.assert_close(run(), model(x), check_stride=False)
    assert [sizes[0] for sizes in compiled] == list(range(1, num + 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_keeps_what_it_reads() -> None:
    x = torch.randn(2, 3, 32, 32, device="cuda")
    model = Mixed().eval()
    with torch.no_grad():
        expected = model.cuda()(x)
    replay: Any = get_engine("cudagraph").prepare(model, x, 1)
    # What nothing owns would be handed out again.
    noise = [torch.full((size,), torch.nan, device="cuda") for size in (64, 4096, 65536) * 100]
    torch.testing.assert_close(replay(), expected, rtol=1e-2, atol=1e-2)
    assert noise


def test_a_replay_owns_the_model_that_was_recorded() -> None:
    model = Mixed()
    watched = weakref.ref(model)
    replay = _Replay(Mock(), partial(model, torch.zeros(1, 3, 32, 32)), "output")
    del model
    assert replay() == "output"
    assert watched() is not None
