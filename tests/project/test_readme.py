"""What the README and the pages show runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from decompose.cli.commands import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").rglob("*.md"))
EXAMPLE = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
WITH_EXAMPLES = [page for page in PAGES if EXAMPLE.search(page.read_text(encoding="utf-8"))]


def run_code(code: str, folder: Path) -> None:
    """Run code in a process of its own, in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = EXAMPLE.findall(README)
    # Without a hub, random weights serve as well.
    run_code(example.replace("torchvision:resnet18", "torchvision:resnet18,weights=none"), tmp_path)
    assert (tmp_path / "small.safetensors").is_file()


@pytest.mark.docs
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_in_their_order(page: Path, tmp_path: Path) -> None:
    run_code("\n".join(EXAMPLE.findall(page.read_text(encoding="utf-8"))), tmp_path)


def test_every_command_is_shown() -> None:
    text = README + "".join(page.read_text(encoding="utf-8") for page in PAGES)
    shown = set(re.findall(r"^(?:    )?decompose (\w+) ", text, flags=re.MULTILINE))
    assert {command.name for command in app.registered_commands} <= shown


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.stem
)
def test_images_and_pages_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target
