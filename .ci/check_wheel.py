"""Install the built wheel into a fresh environment outside the checkout, and use it there as users do.

``make wheel`` runs it on ``dist/``. The environment gets the wheel with its extras from the package
index, PyTorch among them: some gigabytes, and minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

_USE = """
import decompose, torch
from torch import nn

assert set(decompose.__all__) <= set(dir(decompose))
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
example = torch.zeros(1, 3, 16, 16)
small = decompose.apply(decompose.plan(model, example, method="pw_dw", rank=2), model)
decompose.save(small, "small.safetensors")
decompose.load("small.safetensors", model)
decompose.to_onnx(small, torch.randn(2, 3, 16, 16), "small.onnx")
"""

_TYPED = """
from torch import Tensor, nn

import decompose


def shrink(model: nn.Module, example: Tensor) -> nn.Module:
    plan: decompose.Plan = decompose.plan(model, example, macs=0.5)
    return decompose.apply(plan, model)


reveal_type(decompose.plan)
"""


def main() -> None:
    """Check the wheel and the sdist in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dist", type=Path)
    parser.add_argument("--extras", default="demo,detection,onnx,timm")
    options = parser.parse_args()
    (wheel,) = options.dist.resolve().glob("*.whl")
    (sdist,) = options.dist.resolve().glob("*.tar.gz")
    _check_sdist(sdist)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / "bin" / "python"
        requirement = f"torch-decompose[{options.extras}] @ {wheel.as_uri()}"
        _run(folder, python, "-m", "pip", "install", "--quiet", requirement, "pyright[nodejs]")
        command = folder / "env" / "bin" / "decompose"
        printed = _run(folder, command, "--version")
        assert printed.split() == ["decompose", wheel.name.split("-")[1]], printed
        _run(folder, command, "--help")
        source = "torchvision:squeezenet1_1,weights=none,num_classes=3"
        rest = ["--rank", "2", "--input-size", "64", "-o", "net.safetensors"]
        _run(folder, command, "compress", source, *rest)
        _run(folder, command, "inspect", "net.safetensors", "--input-size", "64", "--json")
        _run(folder, python, "-c", _USE)
        (folder / "typed.py").write_text(_TYPED)
        typed = _run(folder, python, "-m", "pyright", "--pythonpath", python, "typed.py")
        assert "Unknown" not in typed, typed
    print(f"{wheel.name} and {sdist.name}: installed, used and typed outside the checkout")


def _check_sdist(sdist: Path) -> None:
    """Check that everything that the package is built and read by is in the sdist."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("pyproject.toml", "README.md", "LICENSE", "decompose/py.typed"):
        assert needed in names, f"{sdist.name} lacks {needed}"


def _run(folder: Path, *command: str | Path) -> str:
    """Run a command in the folder; what it prints."""
    ended = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        sys.exit(f"{' '.join(map(str, command[:4]))} failed:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


if __name__ == "__main__":
    main()
