"""The options that every command has: a file of options, JSON, quiet; the version; Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from decompose.cli.commands import app
from decompose.utils.environment import VERSION
from tests.cli.cases import ARCH, Captured, run

SOURCE = "torchvision:squeezenet1_1,weights=none,num_classes=3"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Options of ``compress`` in a file."""
    path = tmp_path / "compress.toml"
    output = tmp_path / "small.safetensors"
    path.write_text(
        f'source = "{SOURCE}"\noutput = "{output}"\nrank = 2\nskip = ["features.0", "classifier.*"]\n'
        'input_size = "32"\nfold-batchnorm = false\n'
    )
    return path


def test_options_come_from_a_file_and_the_command_line_wins(
    config: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert run("compress", "--config", config, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["source"] == SOURCE
    chosen = record["plan"]["layers"]
    assert "features.0" not in chosen
    assert {layer["rank"] for layer in chosen.values()} == {2}
    assert run("compress", SOURCE, "--config", config, "--rank", 1, "--json") == 0
    chosen = json.loads(capsys.readouterr().out)["plan"]["layers"]
    assert {layer["rank"] for layer in chosen.values()} == {1}
    assert (tmp_path / "small.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maks = 0.5", "there is no option 'maks'; did you mean macs?"),
        ('max_imags = 4\nsource = "x"', "there is no option 'max_imags'; did you mean max-images?"),
        ("config = 'other.toml'", "there is no option 'config'"),
        ("macs = [0.5]", "macs takes one value, not a list"),
        ("macs = true", "macs = True: write a number or a text"),
        ("repair = 1", "repair = 1: write true or false"),
        ("skip = [[1]]", "write a number or a text"),
        ("macs = ", "is not TOML"),
        ("macs = 'half'", "Invalid value for '--macs'"),
    ],
)
def test_what_a_file_of_options_cannot_say(
    tmp_path: Path, capsys: Captured, text: str, message: str
) -> None:
    path = tmp_path / "options.toml"
    path.write_text(text)
    output = tmp_path / "small.safetensors"
    assert run("compress", SOURCE, "--config", path, "-o", output) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert not output.exists()
    assert run("compress", SOURCE, "--config", tmp_path / "none.toml", "-o", output) == 2
    assert "none.toml: cannot be read" in capsys.readouterr().err


def test_quiet_prints_nothing_and_json_nothing_else(tmp_path: Path, capsys: Captured) -> None:
    table = tmp_path / "table.md"
    inspected = ["inspect", SOURCE, "--input-size", "32", "--table", table]
    assert run(*inspected, "--quiet") == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert "features.0" in table.read_text()
    assert run(*inspected, "--json", "--quiet") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["layers"]
    assert printed.err == ""
    # It is over with the command.
    assert run(*inspected) == 0
    assert "features.0" in capsys.readouterr().out


def test_every_command_has_them(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for command in app.registered_commands:
        assert run(str(command.name), "--help") == 0
        printed = capsys.readouterr().out
        assert all(option in printed for option in ("--config", "--json", "--quiet"))


def test_the_version_and_completion(capsys: Captured) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"decompose {VERSION}\n"
    assert run("--help") == 0
    assert "--install-completion" in capsys.readouterr().out


def test_options_of_compress_stand_in_groups(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("compress", "--help") == 0
    printed = capsys.readouterr().out
    titles = ["What to keep", "What to use", "Images", "Output", "Of every command"]
    starts = [printed.index(f"─ {title} ─") for title in titles]
    assert starts == sorted(starts)
    ungrouped = printed[printed.index("─ Options ─") : starts[0]]
    assert ungrouped.count("--") == 1  # --help


def test_ctrl_c_leaves_one_line_and_nothing_half_written(tmp_path: Path) -> None:
    output = tmp_path / "small.safetensors"
    program = (
        "import sys, decompose.cli.compression as c, decompose.cli as cli, time, signal\n"
        "def wait(*_):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        # A shell starts what runs in its background deaf to it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "c.apply = wait\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    arguments = ["compress", SOURCE, "--rank", "2", "--input-size", "32", "-o", str(output)]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "interrupted\n")
    assert not list(tmp_path.iterdir())


def test_devices_by_name(tmp_path: Path, capsys: Captured) -> None:
    output = tmp_path / "small.safetensors"
    compressed = ["compress", ARCH, "--rank", 2, "-o", output]
    for command in (compressed, ["inspect", ARCH], ["export", ARCH, "-o", tmp_path / "a.onnx"]):
        assert run(*command, "--device", "cuda:99") == 2
        assert "device 'cuda:99': cannot be used" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
