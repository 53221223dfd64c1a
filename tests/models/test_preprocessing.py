"""Images become what a model was trained on."""

import numpy as np
import pytest
import torch
from PIL import Image

from decompose.data.synthetic import synthetic_inputs
from decompose.models.preprocessing import ImagePreprocessing, Renormalized
from decompose.utils.errors import DecomposeError

RED = Image.new("RGB", (40, 20), (255, 51, 0))


def test_by_default_colours_are_as_torchvision_has_them() -> None:
    x = ImagePreprocessing.of((3, 8, 8))(RED)
    assert x.shape == (3, 8, 8)
    expected = (torch.tensor([1, 0.2, 0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(x[:, 3, 3], expected)


def test_scale_means_deviations_and_order() -> None:
    look = ImagePreprocessing.of(
        (3, 8, 8), scale=255, means=[103.939, 116.779, 123.68], deviations=[2], is_bgr=True
    )
    expected = (torch.tensor([0, 51, 255.0]) - torch.tensor([103.939, 116.779, 123.68])) / 2
    torch.testing.assert_close(look(RED)[:, 0, 0], expected)
    assert look.input_shape() == (3, 8, 8)
    assert ImagePreprocessing.of((3, 8, 8), scale=255)(RED).max() == 255


def test_images_are_renormalised_for_another_model() -> None:
    ours = ImagePreprocessing.of((3, 8, 8))
    theirs = ImagePreprocessing.of(
        (3, 8, 8), scale=255, means=[103.939, 116.779, 123.68], deviations=[2], is_bgr=True
    )
    given = Renormalized(torch.nn.Identity(), ours.mean, ours.std, theirs)(ours(RED)[None])
    torch.testing.assert_close(given[0], theirs(RED), atol=1e-4, rtol=1e-5)


def test_grey_images_and_the_middle_of_wide_ones() -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 255
    assert ImagePreprocessing.of((1, 10, 10))(Image.fromarray(wide)).min() == 1


def test_synthetic_inputs_look_alike() -> None:
    from decompose.models.preprocessing import remember_preprocessing

    model = torch.nn.Conv2d(3, 4, 3)
    remember_preprocessing(model, ImagePreprocessing.of((3, 32, 32), scale=255, means=[100]))
    inputs = synthetic_inputs(torch.zeros(1, 3, 32, 32), model, num=4)
    assert -100 <= inputs.min() < -50
    assert 50 < inputs.max() <= 155


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [
        ((40,), {}, "are no images"),
        ((4, 8, 8), {}, "are no images"),
        ((3, 8, 8), {"means": [1, 2]}, "2 numbers for images of 3 channels"),
        ((3, 8, 8), {"deviations": [0]}, "must not be 0"),
    ],
)
def test_what_is_no_format(shape: tuple, options: dict, reason: str) -> None:
    with pytest.raises(DecomposeError, match=reason):
        ImagePreprocessing.of(shape, **options)
