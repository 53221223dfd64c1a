"""Networks from names and files and back, without pickle."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

import decompose
from decompose import DecomposeError
from decompose.models.conversion import plan_of
from decompose.models.serialization import architecture_of, is_unnamed_checkpoint, read_header
from tests.support.strategies import Mixed

RESNET = "torchvision:resnet18,weights=none,num_classes=4"
EXAMPLE = torch.randn(2, 3, 64, 64)


def small_resnet() -> nn.Module:
    network = decompose.load(RESNET)
    return decompose.apply(decompose.plan(network, EXAMPLE, rank=2), network)


def test_a_saved_file_rebuilds_the_network_bit_for_bit(tmp_path: Path) -> None:
    small = small_resnet()
    decompose.save(small, tmp_path / "small.safetensors")
    again = decompose.load(tmp_path / "small.safetensors")
    assert plan_of(again) == plan_of(small)
    assert str(architecture_of(again)) == RESNET
    assert torch.equal(again(EXAMPLE), small(EXAMPLE))
    assert not again.training


def test_and_so_does_a_new_process(tmp_path: Path, vgg16: nn.Module) -> None:
    x = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    plan = decompose.plan(vgg16, x, rank=4, skip=["conv1_1"])
    small = decompose.apply(plan, vgg16)
    path = tmp_path / "small.safetensors"
    decompose.save(small, path)
    code = (
        "import decompose, hashlib, torch\n"
        f"x = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)\n"
        f"y = decompose.load({str(path)!r})(x).detach()\n"
        "print(hashlib.sha256(y.numpy().tobytes()).hexdigest())\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    expected = hashlib.sha256(small(x).detach().numpy().tobytes()).hexdigest()
    assert printed.strip() == expected


def test_a_network_without_a_name_needs_its_architecture(tmp_path: Path) -> None:
    network = Mixed().eval()
    small = decompose.apply(decompose.plan(network, EXAMPLE, rank=2), network)
    path = tmp_path / "small.safetensors"
    decompose.save(small, path)
    skeleton = Mixed()
    again = decompose.load(path, skeleton)
    assert torch.equal(again.eval()(EXAMPLE), small(EXAMPLE))
    assert not torch.equal(skeleton.stem.weight, again.get_parameter("stem.weight"))
    assert is_unnamed_checkpoint(path)
    with pytest.raises(DecomposeError, match="without the name of an architecture"):
        decompose.load(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_file_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    small = small_resnet().to(dtype)
    decompose.save(small, tmp_path / "small.safetensors")
    again = decompose.load(tmp_path / "small.safetensors")
    for name, value in small.state_dict().items():
        assert again.state_dict()[name].dtype == value.dtype
        assert torch.equal(again.state_dict()[name], value)


@pytest.mark.parametrize("ending", ["pth", "pt", "safetensors"])
def test_checkpoints_of_others_load(tmp_path: Path, ending: str) -> None:
    network = torchvision.models.resnet18(num_classes=4).eval()
    path = tmp_path / f"checkpoint.{ending}"
    if ending == "safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path)
    assert torch.equal(decompose.load(path, RESNET)(EXAMPLE), network(EXAMPLE))
    assert is_unnamed_checkpoint(path)
    if ending == "safetensors":
        assert read_header(path) is None


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_training_checkpoints_are_unwrapped(tmp_path: Path, key: str) -> None:
    network = torchvision.models.resnet18(num_classes=4).eval()
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({key: state, "epoch": 3}, tmp_path / "checkpoint.pth")
    again = decompose.load(tmp_path / "checkpoint.pth", RESNET)
    assert torch.equal(again(EXAMPLE), network(EXAMPLE))


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.b = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to the same."""
        return self.b(self.a(x))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    network = Tied()
    decompose.save(network, tmp_path / "tied.safetensors")
    again = decompose.load(tmp_path / "tied.safetensors", Tied())
    assert again.get_parameter("a.weight") is again.get_parameter("b.weight")
    assert torch.equal(again(EXAMPLE), network(EXAMPLE))


def test_tied_weights_that_differ_in_a_file_are_refused(tmp_path: Path) -> None:
    state = {"a.weight": torch.zeros(3, 3, 3, 3), "b.weight": torch.ones(3, 3, 3, 3)}
    torch.save(state, tmp_path / "untied.pth")
    with pytest.raises(DecomposeError, match=r"a\.weight, b\.weight are one in the network"):
        decompose.load(tmp_path / "untied.pth", Tied())


def test_shared_buffers_stay_shared(tmp_path: Path) -> None:
    def build() -> nn.Module:
        norm = nn.BatchNorm2d(3)
        return nn.ModuleDict({"a": norm, "b": nn.Sequential(norm)})

    decompose.save(build(), tmp_path / "shared.safetensors")
    again = decompose.load(tmp_path / "shared.safetensors", build())
    assert again.get_buffer("a.running_mean") is again.get_buffer("b.0.running_mean")


def test_older_checkpoints_without_counters_load(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(num_classes=4).state_dict()
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "old.pth")
    decompose.load(tmp_path / "old.pth", RESNET)


def test_modules_that_ask_for_their_version_load(tmp_path: Path) -> None:
    network = decompose.load("torchvision:mnasnet0_5,weights=none")
    decompose.save(network, tmp_path / "mnasnet.safetensors")
    again = decompose.load(tmp_path / "mnasnet.safetensors")
    assert torch.equal(again(EXAMPLE), network(EXAMPLE))


class Attack:
    """Pickles to a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_does_not_run(tmp_path: Path) -> None:
    torch.save({"weight": Attack(tmp_path / "attacked")}, tmp_path / "evil.pth")
    with pytest.raises(DecomposeError, match=r"evil\.pth: .*could run code") as error:
        decompose.load(tmp_path / "evil.pth", RESNET)
    assert not (tmp_path / "attacked").exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"cut.{ending}"
    state = torchvision.models.squeezenet1_1().state_dict()
    if ending == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DecomposeError, match=rf"cut\.{ending}: is damaged") as error:
        decompose.load(path, "torchvision:squeezenet1_1")
    assert "\n" not in str(error.value)


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "squeeze.pth")
    with pytest.raises(
        DecomposeError,
        match=r"missing keys: conv1\.weight.* and \d+ more; unexpected keys: features",
    ):
        decompose.load(tmp_path / "squeeze.pth", RESNET)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(DecomposeError, match=r"fc\.weight is \(1000, 512\) instead of \(4, 512\)"):
        decompose.load(tmp_path / "resnet.pth", RESNET)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    state = torchvision.models.resnet18(num_classes=4).state_dict()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = value
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(DecomposeError, match=r"nan\.pth: layer1\.0\.conv1\.weight is not finite"):
        decompose.load(tmp_path / "nan.pth", RESNET)


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    with pytest.raises(DecomposeError, match="no such file"):
        decompose.load(tmp_path / "missing.pth", RESNET)
    with pytest.raises(DecomposeError, match="is a folder"):
        decompose.load(tmp_path, RESNET)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(DecomposeError, match="holds no state dict"):
        decompose.load(tmp_path / "list.pth", RESNET)
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(DecomposeError, match="not one of tensors"):
        decompose.load(tmp_path / "epoch.pth", RESNET)


def test_a_header_from_elsewhere_is_refused(tmp_path: Path) -> None:
    weights = {"weight": torch.zeros(1)}
    for header in ("{", '{"version": 9, "architecture": null, "plan": {}}', "[]"):
        save_file(weights, tmp_path / "odd.safetensors", {"format": "pt", "decompose": header})
        with pytest.raises(DecomposeError, match=r"odd\.safetensors"):
            read_header(tmp_path / "odd.safetensors")


def test_saving_is_by_name_and_atomic(tmp_path: Path) -> None:
    with pytest.raises(DecomposeError, match=r"end its name in \.safetensors"):
        decompose.save(Mixed(), tmp_path / "small.pth")
    with pytest.raises(DecomposeError, match="there is no folder"):
        decompose.save(Mixed(), tmp_path / "missing" / "small.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    decompose.save(small_resnet(), path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DecomposeError, match="its weights are not those that were saved"):
        decompose.load(path)


def test_a_name_that_asks_for_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), tmp_path / "a.pth")
    # Half a petabyte, if it were built.
    huge = "torchvision:resnet18,weights=none,num_classes=250000000000"
    with pytest.raises(DecomposeError, match=r"wrong shapes: fc\.weight is \(4, 512\) instead of"):
        decompose.load(tmp_path / "a.pth", huge)
