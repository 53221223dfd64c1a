"""Images of any depth and size, and files that are none."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from decompose.data.decoding import read_image
from decompose.utils.errors import DecomposeError
from tests.data.cases import photograph

RAMP = np.linspace(0, 1, 256)[None].repeat(4, 0)


def written(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    """An image as a file of a kind."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled(kind: str) -> None:
    ramp = Image.fromarray(np.round(65535 * RAMP).astype(np.uint16))
    assert np.array_equal(
        np.asarray(read_image("x", written(ramp, kind)))[..., 1], np.round(255 * RAMP)
    )


def test_a_pgm_of_16_bits_is_scaled() -> None:
    header = b"P5 256 4 65535\n"
    content = io.BytesIO(header + np.round(65535 * RAMP).astype(">u2").tobytes())
    assert np.array_equal(np.asarray(read_image("x.pgm", content))[..., 0], np.round(255 * RAMP))


def test_floats_in_0_to_1_are_scaled() -> None:
    ramp = Image.fromarray(RAMP.astype(np.float32))
    assert np.array_equal(
        np.asarray(read_image("x", written(ramp, "TIFF")))[..., 2], np.round(255 * RAMP)
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (300 * RAMP.astype(np.float32), "its floating values are not in"),
        (np.full((2, 2), np.nan, np.float32), "its floating values are not in"),
        (np.full((2, 2), 70000, np.int32), "32 bits have no known range"),
    ],
)
def test_values_of_unknown_range_are_refused(values: np.ndarray, reason: str) -> None:
    with pytest.raises(DecomposeError, match=f"a.tif: .*{reason}"):
        read_image("a.tif", written(Image.fromarray(values), "TIFF"))


def test_pixels_are_read_as_stored_whatever_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = photograph("chelsea.png", 48)
    image = read_image("x", written(stored, "PNG", exif=exif))
    assert np.array_equal(np.asarray(image), np.asarray(stored))


@pytest.mark.parametrize(
    ("size", "reason"),
    [((60000, 1), "one side is over 200 times"), ((9000, 9000), "pixels are more than")],
)
def test_sizes_that_take_all_memory_are_refused(size: tuple[int, int], reason: str) -> None:
    with pytest.raises(DecomposeError, match=reason):
        read_image("x", written(Image.new("1", size), "PNG"))


_FILES = [
    written(photograph("chelsea.png", 24), kind).getvalue()
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM")
]


@given(st.sampled_from(_FILES), st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=4))))
def test_damaged_files_give_an_image_or_are_refused(
    content: bytes, changes: list[tuple[int, bytes]]
) -> None:
    damaged = bytearray(content)
    for place, replacement in changes:
        at = place % len(damaged)
        damaged[at : at + len(replacement)] = replacement
    with contextlib.suppress(DecomposeError):
        assert read_image("x", io.BytesIO(bytes(damaged))).mode == "RGB"
