"""Singular value decomposition by the Gram matrix, beside LAPACK's."""

import pytest
import torch

from decompose.algebra import balanced_svd, gram_eigenvalues, thin_svd

SHAPES = [(3, 20, 4), (3, 4, 20), (2, 5, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factorise", [thin_svd, balanced_svd])
def test_each_truncation_is_the_best_of_its_rank(factorise, shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, dtype=torch.float64)
    u, sigma, vt = torch.linalg.svd(matrices, full_matrices=False)
    left, right = factorise(matrices)
    for rank in range(1, min(shape[1:]) + 1):
        expected = (u[..., :rank] * sigma[:, None, :rank]) @ vt[:, :rank]
        torch.testing.assert_close(left[..., :rank] @ right[:, :rank], expected)


def test_the_scale_is_where_it_is_said_to_be() -> None:
    for shape in SHAPES:
        matrices = torch.randn(shape, dtype=torch.float64)
        _, right = thin_svd(matrices)
        torch.testing.assert_close(right.norm(dim=2), torch.ones(shape[0], min(shape[1:])).double())
        a, b = balanced_svd(matrices)
        torch.testing.assert_close(a.norm(dim=1), b.norm(dim=2))
        torch.testing.assert_close(a.norm(dim=1).pow(4), gram_eigenvalues(matrices))


@pytest.mark.parametrize("factorise", [thin_svd, balanced_svd])
def test_matrices_without_full_rank_are_no_exception(factorise) -> None:
    matrices = torch.zeros(3, 6, 4)
    matrices[1] = torch.outer(torch.arange(6.0), torch.ones(4))
    left, right = factorise(matrices)
    torch.testing.assert_close(left @ right, matrices, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_shapes_and_dtypes_need_no_weights(dtype: torch.dtype) -> None:
    for shape in SHAPES:
        matrices = torch.randn(shape, dtype=dtype)
        for factorise in (thin_svd, balanced_svd):
            made, outline = factorise(matrices), factorise(matrices.to("meta"))
            assert [t.shape for t in made] == [t.shape for t in outline]
            assert {t.dtype for t in (*made, *outline)} == {dtype}
