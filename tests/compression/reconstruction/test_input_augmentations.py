"""Views show an input again, in its own shape."""

import pytest
import torch

from decompose.compression.reconstruction.input_augmentations import augmentations


@pytest.mark.parametrize("shape", [(1, 3, 9, 14), (2, 1, 1, 1), (1, 4, 7), (1, 2, 5, 6, 7), (3, 8)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_views_have_the_inputs_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape).to(dtype)
    seen = [augment(x) for augment in augmentations(x)]
    assert seen[0] is x
    assert {(tuple(augment.shape), augment.dtype) for augment in seen} == {(shape, dtype)}


def test_views_of_an_image_are_mirrored_enlarged_and_tiled() -> None:
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    x = torch.stack([rows, columns])[None]
    _, mirrored, enlarged, tiled = (augment(x) for augment in augmentations(x))
    assert torch.equal(mirrored, x.flip(-1))
    # The enlarged middle spans 0.7 of what the whole spans, about the same centre.
    assert float(enlarged.mean()) == pytest.approx(19.5, abs=0.1)
    assert float(enlarged.amax() - enlarged.amin()) == pytest.approx(0.7 * 39, abs=1.5)
    # Tiles are mirror images of one another.
    torch.testing.assert_close(tiled, tiled.flip(-1))
    torch.testing.assert_close(tiled, tiled.flip(-2))
    assert float(tiled.mean()) == pytest.approx(19.5, abs=0.1)
    # Of many, the middles show nothing more.
    many = [augment(x) for augment in augmentations(x, are_many=True)]
    assert all(map(torch.equal, many, (x, mirrored, tiled)))


def test_whole_numbers_are_mirrored_only() -> None:
    assert len(augmentations(torch.zeros(1, 3, 8, 8, dtype=torch.int64))) == 2
