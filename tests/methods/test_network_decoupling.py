"""Network decoupling against the paper: transcribed, on its own model, and at its own thresholds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import decompose
from decompose import Choice
from decompose.algebra import Deviation, compose, leaves, weight_deviation
from decompose.layers.discovery import find_decomposable
from decompose.layers.modules import DecomposedLayer, to_conv
from decompose.methods import METHODS
from decompose.methods.network_decoupling import NetworkDecoupling
from tests.support.strategies import Case, conv_cases, spatial

PW_DW, DW_PW = METHODS["pw_dw"], METHODS["dw_pw"]
ORDERS = [order for order in METHODS.values() if isinstance(order, NetworkDecoupling)]


def transcribed(weight: np.ndarray, order: NetworkDecoupling, rank: int) -> np.ndarray:
    """Decouple one slice after another, as the paper does, and multiply the terms out again."""
    outputs, inputs, height, width = weight.shape
    kernel = np.zeros_like(weight)
    for slice_index in range(outputs if order is PW_DW else inputs):
        if order is PW_DW:
            matrix = weight[slice_index].reshape(inputs, height * width)
        else:
            matrix = weight[:, slice_index].reshape(outputs, height * width)
        u, sigma, vt = np.linalg.svd(matrix, full_matrices=False)
        for term in range(rank):
            for row in range(len(matrix)):
                plane = sigma[term] * u[row, term] * vt[term].reshape(height, width)
                if order is PW_DW:
                    kernel[slice_index, row] += plane
                else:
                    kernel[row, slice_index] += plane
    return kernel


def transcribed_rank(weight: np.ndarray, order: NetworkDecoupling, threshold: float) -> int:
    """Pick the rank by energy, as the paper averages it."""
    slices = weight if order is PW_DW else weight.swapaxes(0, 1)
    ratios = []
    for matrix in slices:
        squares = np.linalg.svd(matrix.reshape(len(matrix), -1), compute_uv=False) ** 2
        if squares.sum() > 0:
            ratios.append(np.cumsum(squares) / squares.sum())
    mean = np.mean(ratios, axis=0)
    return next(t for t, held in enumerate(mean, start=1) if held >= threshold)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.name)
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_batched_call_is_the_papers_loop(order: NetworkDecoupling, rank: int) -> None:
    module = nn.Conv2d(7, 6, 3, dtype=torch.float64)
    conv = to_conv(module)
    kernel = compose(order(conv, rank)).weight.numpy()
    np.testing.assert_allclose(kernel, transcribed(conv.weight.numpy(), order, rank), atol=1e-12)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.name)
def test_the_rank_by_energy_is_the_papers(order: NetworkDecoupling, vgg16: nn.Module) -> None:
    for name in ("conv1_1", "conv1_2", "conv2_1"):
        conv = to_conv(find_decomposable(vgg16)[name])
        weight = conv.weight.double()
        weight[1] = 0  # slices that are all zero do not count
        conv = replace(conv, weight=weight, bias=None)
        for threshold in (0.7, 0.9, 0.99):
            expected = transcribed_rank(conv.weight.numpy(), order, threshold)
            assert order.rank_for_energy(conv, threshold) == expected


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.name)
def test_slices_of_zeros_do_not_count(order: NetworkDecoupling) -> None:
    module = nn.Conv2d(5, 5, 3, bias=False, dtype=torch.float64)
    nn.init.normal_(module.weight)
    alone = order.energy(to_conv(module))
    padded = nn.Conv2d(5, 6, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        padded.weight[:5] = module.weight
        padded.weight[5] = 0
    if order is PW_DW:
        torch.testing.assert_close(order.energy(to_conv(padded)), alone)
    nn.init.zeros_(padded.weight)
    assert order.rank_for_energy(to_conv(padded), 1.0) == 1


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases().filter(spatial), st.sampled_from(ORDERS))
def test_the_squared_error_is_the_tail_of_the_singular_values(
    case: Case, order: NetworkDecoupling
) -> None:
    conv = to_conv(case[0])
    squares = order.singular_values(conv).square().sum(dim=0)
    for rank in range(1, order.max_rank(conv) + 1):
        error = weight_deviation(order(conv, rank), conv).squared_error
        assert error == pytest.approx(float(squares[rank:].sum()), rel=1e-9, abs=1e-20)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.name)
def test_the_real_vgg16_recomposes_as_the_method_says(
    order: NetworkDecoupling, vgg16: nn.Module
) -> None:
    for name, module in find_decomposable(vgg16).items():
        conv = to_conv(module)
        matrices = order.slices(conv)
        u, sigma, vt = torch.linalg.svd(matrices.double(), full_matrices=False)
        for rank in range(1, order.max_rank(conv) + 1):
            kernel = order.slices(compose(order(conv, rank)))
            expected = (u[..., :rank] * sigma[:, None, :rank]) @ vt[:, :rank]
            assert Deviation.between(kernel, expected.float()).relative < 1e-10, (name, rank)


def test_pool5_of_the_real_vgg16_moves_as_measured(vgg16: nn.Module, images: Tensor) -> None:
    """Relative errors on the twelve photographs; a different crop would move them a little."""
    errors = {}
    for order, rank in ((PW_DW, 4), (PW_DW, 5), (DW_PW, 4), (DW_PW, 5)):
        plan = decompose.plan(vgg16, images, method=order.name, rank=rank, skip=["conv1_1"])
        small = decompose.apply(plan, vgg16)
        with torch.no_grad():
            outputs = torch.cat([small(image) for image in images.split(1)])
            expected = torch.cat([vgg16(image) for image in images.split(1)])
        errors[order.name, rank] = Deviation.between(outputs, expected).relative
    assert errors["pw_dw", 4] == pytest.approx(0.18, rel=0.1)
    assert errors["pw_dw", 5] == pytest.approx(0.072, rel=0.1)
    assert errors["dw_pw", 4] == pytest.approx(0.32, rel=0.1)
    assert errors["dw_pw", 5] == pytest.approx(0.13, rel=0.1)


def test_terms_stand_as_the_paper_orders_them() -> None:
    conv = to_conv(nn.Conv2d(5, 7, 3, stride=2, padding=1))
    for order, pointwise_first in ((PW_DW, True), (DW_PW, False)):
        factors = list(leaves(order(conv, 3)))
        assert len(factors) == 6
        for index, (first, second) in enumerate(zip(factors[::2], factors[1::2], strict=True)):
            pointwise, depthwise = (first, second) if pointwise_first else (second, first)
            assert pointwise.is_pointwise
            assert depthwise.is_depthwise
            assert depthwise.geometry.stride == (2, 2)
            assert (second.bias is not None) == (index == 0)
            assert first.bias is None


def test_a_decomposed_module_carries_its_method() -> None:
    module = nn.Conv2d(4, 4, 3)
    layer = DecomposedLayer(module, PW_DW(to_conv(module), 2), Choice("pw_dw", 2))
    assert "method=pw_dw, rank=2" in repr(layer)
