"""timm's models by name."""

import socket
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import decompose
from decompose.data.synthetic import synthetic_inputs
from decompose.models.architectures import Architecture
from decompose.utils.errors import DecomposeError

NAME = "timm:test_convnext,weights=none"


def test_a_network_goes_through_files(tmp_path: Path) -> None:
    model = decompose.load(NAME)
    example = torch.zeros(1, 3, 32, 32)
    small = decompose.apply(decompose.plan(model, example, macs=0.7), model)
    decompose.save(small, tmp_path / "small.safetensors")
    again = decompose.load(tmp_path / "small.safetensors")
    x = synthetic_inputs(example, num=2)
    with torch.no_grad():
        assert torch.equal(again(x), small(x))


def test_options_reach_the_builder() -> None:
    architecture = Architecture.parse(f"{NAME},in_chans=1,num_classes=7")
    with torch.no_grad():
        assert architecture.build()(torch.zeros(1, 1, 64, 64)).shape == (1, 7)
    assert architecture.input_shape()[0] == 1
    with pytest.raises(DecomposeError, match="clases"):
        Architecture.parse(f"{NAME},clases=7").build()


def test_the_preprocessing_is_timms_own() -> None:
    import timm

    architecture = Architecture.parse("timm:convnext_tiny.fb_in1k,weights=none")
    assert architecture.input_shape() == (3, 224, 224)
    model = timm.create_model("convnext_tiny.fb_in1k")
    config = timm.data.resolve_model_data_config(model)  # type: ignore[attr-defined]
    theirs = timm.data.create_transform(**config, is_training=False)  # type: ignore[attr-defined]
    noise = (255 * torch.rand(40, 56, 3)).byte().numpy()
    image = Image.fromarray(noise).resize((400, 300))
    torch.testing.assert_close(architecture.transform()(image), theirs(image))


def test_a_squashed_image_is_timms_affair() -> None:
    architecture = Architecture.parse("timm:vit_base_patch16_siglip_224,weights=none")
    made = architecture.transform()(Image.new("RGB", (50, 40)))
    assert tuple(made.shape) == architecture.input_shape()


@pytest.mark.parametrize("model", ["test_convnext", "vit_base_patch16_siglip_224"])
def test_images_may_be_grey(model: str) -> None:
    architecture = Architecture.parse(f"timm:{model},weights=none,in_chans=1")
    black, red, white = (Image.new("RGB", (50, 40), name) for name in ("black", "red", "white"))
    transform = architecture.transform()
    assert tuple(transform(red).shape) == architecture.input_shape()
    low, middle, high = (float(transform(image).mean()) for image in (black, red, white))
    assert low < middle < high
    colours = Architecture.parse(f"timm:{model},weights=none").transform()
    assert low == pytest.approx(float(colours(black).mean()), rel=0.02)


def test_inputs_that_are_no_images() -> None:
    architecture = Architecture.parse("timm:test_convnext,weights=none,in_chans=4")
    assert architecture.input_shape()[0] == 4
    with pytest.raises(DecomposeError, match="1 or 3 channels; the model takes 4"):
        architecture.transform()


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(DecomposeError, match=r"timm:resnet18: .*no route to host.*--arch"):
        Architecture.parse("timm:resnet18").pretrained_state()


def test_weights_that_nobody_has() -> None:
    architecture = Architecture.parse("timm:resnet18,weights=none")
    assert architecture.pretrained_state() is None
    with pytest.raises(DecomposeError, match="has no pretrained weights; write weights=none"):
        Architecture.parse("timm:coatnet_0_224").pretrained_state()


@pytest.mark.usefixtures("_without_timm")
def test_where_timm_is_not_installed() -> None:
    with pytest.raises(DecomposeError, match=r"pip install 'torch-decompose\[timm\]'"):
        Architecture.parse("timm:resnet18")


@pytest.fixture
def _without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)


@pytest.mark.network
def test_pretrained_weights_come_from_the_hub() -> None:
    try:
        # The hub's client alone would try for most of a minute.
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError as error:
        pytest.skip(f"no hub is reachable: {error}")
    assert Architecture.parse("timm:test_convnext").pretrained_state() is not None
