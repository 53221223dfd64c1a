"""The centred view against scikit-learn's PCA."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from decompose.layers.modules import to_conv
from decompose.methods import METHODS, principal_components
from decompose.methods.network_decoupling import NetworkDecoupling

ORDERS = [order for order in METHODS.values() if isinstance(order, NetworkDecoupling)]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.name)
def test_it_is_the_pca_of_each_slice(order: NetworkDecoupling, vgg16: nn.Module) -> None:
    module = vgg16.get_submodule("conv2_1")
    assert isinstance(module, nn.Conv2d)
    conv = to_conv(module)
    view = principal_components(conv, order)
    slices = order.slices(conv)
    for index in (0, 17, len(slices) - 1):
        pca = PCA().fit(slices[index].numpy())
        np.testing.assert_allclose(view.mean[index].flatten(), pca.mean_, atol=1e-6)
        np.testing.assert_allclose(
            view.explained_variance[index], pca.explained_variance_, rtol=1e-3, atol=1e-9
        )
        np.testing.assert_allclose(
            view.explained_variance_ratio[index],
            pca.explained_variance_ratio_,
            rtol=1e-3,
            atol=1e-7,
        )
        ours = view.components[index].flatten(1).numpy()
        # Components are directions: either sign will do.
        cosines = np.abs((ours * pca.components_).sum(axis=1))
        np.testing.assert_allclose(cosines, 1, atol=1e-3)


def test_the_mean_ratio_rises_to_one() -> None:
    conv = to_conv(nn.Conv2d(20, 6, 3, dtype=torch.float64))
    held = principal_components(conv, ORDERS[0]).cumulative_ratio()
    assert held.shape == (9,)
    assert bool((held.diff() >= -1e-12).all())
    assert float(held[-1]) == pytest.approx(1)


def test_kernels_that_are_all_alike_have_no_variance() -> None:
    module = nn.Conv2d(4, 3, 3)
    nn.init.constant_(module.weight, 0.5)
    view = principal_components(to_conv(module), ORDERS[0])
    assert float(view.explained_variance.max()) < 1e-10
    assert float(view.explained_variance_ratio.sum()) == 0
    nn.init.zeros_(module.weight)
    view = principal_components(to_conv(module), ORDERS[0])
    assert torch.equal(view.cumulative_ratio(), torch.ones(4, dtype=torch.float64))
    assert float(view.explained_variance_ratio.sum()) == 0
