"""Architectures by name."""

from pathlib import Path

import pytest
import torch
import torchvision

import decompose
from decompose.layers.forward import comparable_outputs
from decompose.models.architectures import OFFLINE_VGG16, Architecture, is_architecture_name
from decompose.utils.errors import DecomposeError


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:resnet18",
        "torchvision:resnet18,weights=IMAGENET1K_V1",
        "torchvision:resnet18,weights=none,num_classes=10",
        "timm:convnext_tiny.fb_in1k,in_chans=1",
        OFFLINE_VGG16,
    ],
)
def test_a_name_is_written_as_it_was_read(name: str) -> None:
    assert str(Architecture.parse(name)) == name
    assert is_architecture_name(name)


def test_files_are_no_names() -> None:
    assert not is_architecture_name("torchvision.pth")
    assert not is_architecture_name("models/resnet18.safetensors")


@pytest.mark.parametrize("text", ["none", "'none'", "None", "1", "'1'", "high"])
def test_options_are_read_as_they_are_written(text: str) -> None:
    architecture = Architecture.parse(f"torchvision:resnet18,weights=none,option={text}")
    again = Architecture.parse(str(architecture))
    assert again == architecture
    assert type(again.options["option"]) is type(architecture.options["option"])


def test_options_reach_the_builder() -> None:
    model = Architecture.parse("torchvision:resnet18,weights=none,num_classes=10").build()
    assert model.get_submodule("fc").out_features == 10
    assert not model.training


@pytest.mark.parametrize(
    "name", ["resnet18,weights=none,colour=3", "ssd300_vgg16,weights=none,weights_backbone=other"]
)
def test_options_that_the_builder_refuses_are_told(name: str) -> None:
    with pytest.raises(DecomposeError, match=f"{name}: "):
        Architecture.parse(f"torchvision:{name}").build()


def test_the_preprocessing_is_the_weights_own() -> None:
    architecture = Architecture.parse("torchvision:efficientnet_b1,weights=none")
    assert architecture.input_shape() == (3, 240, 240)
    vgg16 = Architecture.parse(OFFLINE_VGG16)
    assert vgg16.input_shape() == (3, 224, 224)
    assert getattr(vgg16.transform(), "std")[0] == pytest.approx(1 / 255)  # noqa: B009
    assert getattr(vgg16.transform(), "mean") == pytest.approx((0.48235, 0.45882, 0.40784))  # noqa: B009


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("ssd300_vgg16", 300),
        ("ssdlite320_mobilenet_v3_large", 320),
        ("retinanet_resnet50_fpn", 800),
        ("fasterrcnn_resnet50_fpn,min_size=320", 320),
        ("fcn_resnet50", 520),
    ],
)
def test_the_size_of_images_that_are_not_cropped(name: str, size: int) -> None:
    for architecture in (f"torchvision:{name}", f"torchvision:{name},weights=none"):
        assert Architecture.parse(architecture).input_shape() == (3, size, size)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("retinanet_resnet50_fpn", {"min_size": 64, "max_size": 64}),
        ("ssdlite320_mobilenet_v3_large", {}),
        ("deeplabv3_resnet50", {}),
    ],
)
def test_pretrained_networks_are_built_as_torchvision_does(
    name: str, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = torchvision.models.get_model_builder(name)
    weights = torchvision.models.get_model_weights(name)
    architecture = Architecture("torchvision", name, options=options)
    state = architecture.build().state_dict()
    counters = [key for key in state if "num_batches_tracked" in key]
    for key in counters if "retinanet" in name else ():
        del state[key]  # frozen there
    monkeypatch.setattr(weights, "get_state_dict", lambda *_, **__: state)
    theirs = builder(weights="DEFAULT", weights_backbone=None, **options).eval()
    ours = decompose.load(str(architecture))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(comparable_outputs(theirs, x), comparable_outputs(ours, x), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:vgg61", "did you mean .*vgg16"),
        ("torchvision:resnet18,weights=V9", "no weights 'V9'; there are: none, IMAGENET1K_V1"),
        ("torchvision:resnet18,pretrained", "KEY=VALUE, not 'pretrained'"),
        ("hub:resnet18", "is no architecture"),
        ("resnet18", "^resnet18: is no architecture"),
        ("timm:resnet81", "timm has no model 'resnet81'; did you mean"),
        ("timm:resnet18.nope", "no weights 'nope'; there are: a1_in1k"),
        ("timm:resnet18,weights=a1_in1k", "write timm:resnet18.a1_in1k"),
        ("pypi:resnet18", f"only {OFFLINE_VGG16}"),
    ],
)
def test_names_that_mean_nothing(name: str, message: str) -> None:
    with pytest.raises(DecomposeError, match=message):
        Architecture.parse(name)


def test_random_weights_need_nothing_else() -> None:
    for name in ("fcn_resnet50", "inception_v3"):
        with torch.device("meta"):
            assert not Architecture.parse(f"torchvision:{name},weights=none").build().training


def test_an_option_that_does_not_exist() -> None:
    with pytest.raises(DecomposeError, match="clases"):
        Architecture.parse("torchvision:resnet18,weights=none,clases=10").build()


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(DecomposeError, match=r"cannot be downloaded .*no route to host.*--arch"):
        Architecture.parse("torchvision:resnet18").pretrained_state()


@pytest.mark.network
def test_pretrained_weights_come_from_the_hub() -> None:
    architecture = Architecture.parse("torchvision:squeezenet1_1")
    try:
        state = architecture.pretrained_state()
    except DecomposeError as error:
        pytest.skip(f"no hub is reachable: {error}")
    assert state is not None
    architecture.build().load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (f"x={'-' * 3000}1", "is too long"),
        (f"num_classes={'-' * 900}1", "resnet18"),
        ("num_classes={[]:1}", "resnet18"),
        ("width_per_group=1e308", "resnet18"),
    ],
)
def test_options_that_are_no_values_are_refused_in_one_line(options: str, reason: str) -> None:
    with pytest.raises(DecomposeError, match=reason) as error:
        Architecture.parse(f"torchvision:resnet18,weights=none,{options}").build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("option", ["round_nearest=0", "width_mult=1e308", "width_mult=nan"])
def test_whatever_a_builder_raises_is_one_line(option: str) -> None:
    with pytest.raises(DecomposeError, match="mobilenet_v2"):
        Architecture.parse(f"torchvision:mobilenet_v2,weights=none,{option}").build()


def test_a_damaged_file_of_the_hubs_cache_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    for junk in (b"", b"junk", b"PK\x03\x04", b"\x80\x02."):
        cached.write_bytes(junk)
        with pytest.raises(DecomposeError, match=r"resnet18-f37072fd\.pth: is damaged; remove it"):
            Architecture.parse("torchvision:resnet18").pretrained_state()
