"""A small model and images, as the command line takes them."""

from pathlib import Path

import pytest
import torch
import torchvision

from tests.cli.cases import ARCH, run
from tests.data.cases import photograph


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and real photographs in six class folders."""
    folder = tmp_path_factory.mktemp("cli")
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=6).state_dict(), folder / "resnet18.pth")
    names = ("astronaut.png", "chelsea.png", "coffee.png", "brick.png", "coins.png", "rocket.jpg")
    for index, name in enumerate(names):
        (folder / "val" / f"n{index:02}").mkdir(parents=True)
        photograph(name).save(folder / "val" / f"n{index:02}" / "picture.jpg")
    return folder


@pytest.fixture(scope="session")
def small(folder: Path) -> Path:
    """The checkpoint, compressed."""
    path = folder / "small.safetensors"
    arguments = ["--arch", ARCH, "--rank", "3", "--skip", "conv1", "-o", path]
    assert run("compress", folder / "resnet18.pth", *arguments) == 0
    return path
