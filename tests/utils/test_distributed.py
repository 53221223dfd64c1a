"""Several processes count what one counts; a killed run goes on to the same."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision

from decompose.utils.distributed import Processes
from tests.data.cases import photograph

ARCH = "torchvision:resnet18,weights=none,num_classes=3"
SLOWLY = """
import sys, time
from decompose.evaluation import predictions, runner
from decompose.cli import main

predictions._SECONDS_BETWEEN = 0
run = runner.Runner.outputs

def slowly(own, batch):
    time.sleep(0.2)
    return run(own, batch)

runner.Runner.outputs = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and eleven images in three class folders: no number of processes divides them."""
    folder = tmp_path_factory.mktemp("processes")
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), folder / "net.pth")
    for label, file in enumerate(("astronaut.png", "chelsea.png", "coffee.png")):
        image = photograph(file).resize((64, 64))
        (folder / "val" / f"c{label}").mkdir(parents=True)
        for turn in range(4 if label else 3):
            turned = image.rotate(90 * turn)
            turned.save(folder / "val" / f"c{label}" / f"{turn}.png")
    (folder / "val" / "c1" / "broken.png").write_text("no image")
    return folder


def command(folder: Path, output: Path) -> list[str]:
    arguments = ["evaluate", str(folder / "net.pth"), "--arch", ARCH, "--data", str(folder / "val")]
    return [*arguments, "--batch-size", "2", "--workers", "0", "--device", "cpu", "-o", str(output)]


def launched(num: int, program: list[str]) -> subprocess.CompletedProcess[str]:
    """Results of some processes under torchrun, or of one without."""
    side_by_side = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, *(side_by_side if num > 1 else []), *program]
    ended = subprocess.run(line, check=False, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended


def counted(record: Path) -> tuple[object, ...]:
    found = json.loads(record.read_text())
    return tuple(found[key] for key in ("num_pictures", "unreadable", "accuracies"))


def test_two_processes_count_what_one_counts(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "slowly.py"
    script.write_text(SLOWLY)
    printed = {}
    for num in (1, 2):
        ended = launched(num, [str(script), *command(folder, tmp_path / f"{num}.json")])
        printed[num] = ended.stdout
    assert counted(tmp_path / "1.json") == counted(tmp_path / "2.json")
    assert counted(tmp_path / "2.json")[0] == 11
    assert printed[2].count("Wrote") == 1


def test_a_killed_run_goes_on_to_the_same_counts(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "slowly.py"
    script.write_text(SLOWLY)
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    launched(1, [str(script), *command(folder, whole)])
    running = subprocess.Popen([sys.executable, str(script), *command(folder, cut)])
    kept = tmp_path / f".{cut.name}.outcomes.0"
    until = time.monotonic() + 60
    while not kept.exists() and time.monotonic() < until:
        time.sleep(0.01)
    running.kill()
    running.wait()
    assert kept.exists()
    assert not cut.exists()
    # Other processes than those that began may end it.
    launched(2, [str(script), *command(folder, cut)])
    assert counted(cut) == counted(whole)
    assert not kept.exists()


def test_one_process_is_the_first_and_gathers_its_own() -> None:
    alone = Processes.joined("cpu")
    assert alone.is_first()
    assert alone.gather("x") == ["x"]
    assert alone.share("x") == "x"
