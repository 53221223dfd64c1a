"""Plans and repairs where the model is: a GPU gives what the CPU gives."""

import copy

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose.algebra import Deviation
from tests.support.strategies import Mixed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).cpu()


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"method": "channel", "rank": 2}])
def test_one_plan_repaired_on_both_devices_gives_one_model(budget: dict, images: Tensor) -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    plan = decompose.plan(model, images[:1], **budget)
    here = decompose.apply(plan, model, calibrate=images)
    there = decompose.apply(plan, copy.deepcopy(model).cuda(), calibrate=images.cuda())
    assert all(parameter.is_cuda for parameter in there.parameters())
    given, wanted = outputs(there, images.cuda()), outputs(here, images)
    assert Deviation.between(given, wanted).relative < 1e-4


def test_a_plan_made_on_a_gpu_is_as_good(images: Tensor) -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    found = {}
    for device in ("cpu", "cuda"):
        there, x = copy.deepcopy(model).to(device), images.to(device)
        plan = decompose.plan(there, x[:1], macs=0.5, calibrate=x)
        small = decompose.apply(plan, there, calibrate=x)
        found[device] = Deviation.between(outputs(small, x), outputs(model, images)).relative
    assert found["cuda"] < 1.2 * found["cpu"] + 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_float32(dtype: torch.dtype, images: Tensor) -> None:
    torch.manual_seed(0)
    model = Mixed().eval().cuda().to(dtype)
    x = images.cuda().to(dtype)
    plan = decompose.plan(model, x[:1], macs=0.5, calibrate=x)
    small = decompose.apply(plan, model, calibrate=x)
    assert {parameter.dtype for parameter in small.parameters()} == {dtype}
    assert outputs(small, x).isfinite().all()
