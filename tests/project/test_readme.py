"""What the README shows runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

from decompose.cli.commands import app

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    # Without a hub, random weights serve as well.
    code = example.replace("torchvision:resnet18", "torchvision:resnet18,weights=none")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    assert (tmp_path / "small.safetensors").is_file()


def test_every_command_is_shown() -> None:
    shown = set(re.findall(r"^    decompose (\w+)", README, flags=re.MULTILINE))
    assert shown == {command.name for command in app.registered_commands}


def test_pictures_and_pages_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (Path(__file__).parents[2] / target).exists(), target
