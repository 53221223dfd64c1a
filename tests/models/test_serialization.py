"""Models from names and files and back, without pickle."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

import decompose
from decompose import DecomposeError
from decompose.models.architectures import Architecture
from decompose.models.conversion import plan_of
from decompose.models.serialization import architecture_of, is_unnamed_checkpoint, read_header
from tests.support.strategies import Mixed

RESNET = "torchvision:resnet18,weights=none,num_classes=4"
SQUEEZENET = "torchvision:squeezenet1_1,weights=none,num_classes=2"
EXAMPLE = torch.randn(2, 3, 64, 64)
X = torch.randn(5, 2)
EMPTY = json.loads(decompose.Plan().to_json())


def small_resnet() -> nn.Module:
    model = decompose.load(RESNET)
    return decompose.apply(decompose.plan(model, EXAMPLE, rank=2), model)


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
    model = Mixed().eval()
    small = decompose.apply(decompose.plan(model, EXAMPLE, rank=2), model)
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
    model = torchvision.models.resnet18(num_classes=4).eval()
    path = tmp_path / f"checkpoint.{ending}"
    if ending == "safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    assert torch.equal(decompose.load(path, RESNET)(EXAMPLE), model(EXAMPLE))
    assert is_unnamed_checkpoint(path)
    if ending == "safetensors":
        assert read_header(path) is None


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.module.", "module.module.", "net.ema."]
)
@pytest.mark.parametrize("keys", [("state_dict",), ("model", "state_dict"), ("state_dict_ema",)])
def test_training_checkpoints_are_unwrapped(
    tmp_path: Path, keys: tuple[str, ...], prefix: str
) -> None:
    model = torchvision.models.squeezenet1_1(num_classes=2).eval()
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    content: dict[str, object] = {"epoch": 3}
    for key in reversed(keys):
        content = {key: content if key != keys[-1] else state}
    torch.save({**content, "epoch": 3}, tmp_path / "checkpoint.pth")
    again = decompose.load(tmp_path / "checkpoint.pth", SQUEEZENET)
    assert torch.equal(again(EXAMPLE), model(EXAMPLE))


def test_weights_before_their_average_are_taken(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"state_dict_ema": average, "state_dict": state}, tmp_path / "a.pth")
    with pytest.warns(
        UserWarning, match="'state_dict' are taken, not those under 'state_dict_ema'"
    ):
        loaded = decompose.load(tmp_path / "a.pth", nn.Linear(2, 2))
    assert torch.equal(loaded(X), model(X))


def test_a_compiled_part_and_masks_of_pruned_layers_are_undone(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    prune.l1_unstructured(model[0], "weight", 0.5)
    state = {name.replace("1.", "1._orig_mod."): t for name, t in model.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    again = decompose.load(tmp_path / "a.pth", nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)))
    assert torch.equal(again(X), model(X))


def test_swa_averages_load(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    torch.save(AveragedModel(model).state_dict(), tmp_path / "a.pth")
    again = decompose.load(tmp_path / "a.pth", nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)))
    assert torch.equal(again(X), model(X))


class Wrapper(nn.Module):
    """A model whose only child has the name that data parallelism gives."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Run the child."""
        return self.module(x)


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel])
def test_a_child_called_module_keeps_its_name(
    tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    model = wrap(Wrapper()).eval()
    decompose.save(model, tmp_path / "a.safetensors")
    again = decompose.load(tmp_path / "a.safetensors", wrap(Wrapper()))
    assert torch.equal(again(EXAMPLE), model(EXAMPLE))


def test_a_buffer_may_be_infinite(tmp_path: Path) -> None:
    class Causal(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))

    decompose.save(Causal(), tmp_path / "a.safetensors")
    assert torch.equal(
        decompose.load(tmp_path / "a.safetensors", Causal()).get_buffer("mask"),
        Causal().get_buffer("mask"),
    )
    broken = Causal().state_dict()
    broken["mask"][0, 0] = float("nan")
    torch.save(broken, tmp_path / "a.pth")
    with pytest.raises(DecomposeError, match="mask is not finite"):
        decompose.load(tmp_path / "a.pth", Causal())


@pytest.mark.parametrize(
    "weight",
    [
        torch.eye(2).to_sparse(),
        torch.empty(2, 2, device="meta"),
        torch.eye(2).to(torch.float8_e4m3fn),
    ],
    ids=["sparse", "meta", "float8"],
)
def test_tensors_that_nothing_computes_with_are_named(tmp_path: Path, weight: Tensor) -> None:
    torch.save({"weight": weight, "bias": torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(DecomposeError, match=r"a\.pth: weight is no dense tensor"):
        decompose.load(tmp_path / "a.pth", nn.Linear(2, 2))


def test_expanded_and_overlapping_tensors_load_and_are_saved(tmp_path: Path) -> None:
    row = torch.randn(6)
    state = {"0.weight": row[:4].view(2, 2), "0.bias": row[2:4], "1.weight": row[5].expand(2, 2)}
    torch.save(state | {"1.bias": row[:2]}, tmp_path / "a.pth")
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    loaded = decompose.load(tmp_path / "a.pth", model)
    decompose.save(loaded, tmp_path / "a.safetensors")
    again = decompose.load(tmp_path / "a.safetensors", model)
    assert torch.equal(again(X), loaded(X))
    with torch.no_grad():
        loaded.get_parameter("0.weight").zero_()
    assert loaded.get_parameter("0.bias").any()


@pytest.mark.parametrize("ending", ["SAFETENSORS", "SafeTensors"])
def test_endings_are_known_in_any_case(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    decompose.save(small_resnet(), path)
    assert decompose.load(path)(EXAMPLE).shape == (2, 4)


@pytest.mark.parametrize(
    "option",
    [
        "weights_backbone=IMAGENET1K_V1",
        "checkpoint_path=/etc/passwd",
        "pretrained_cfg_overlay=1",
        "num_classes=2000000",
        "layers=[1000000]",
        "global_pool=../x",
    ],
)
def test_what_a_file_names_builds_layers_and_nothing_else(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    monkeypatch.setattr(Architecture, "build", lambda _: pytest.fail("it was built"))
    header = {"version": 1, "architecture": f"{RESNET},{option}", "plan": EMPTY}
    save_file({"x": torch.zeros(1)}, path, {"format": "pt", "decompose": json.dumps(header)})
    with pytest.raises(DecomposeError, match=r"a\.safetensors: .*(may not name|out of bounds)"):
        decompose.load(path)


def test_a_file_is_named_whose_architecture_cannot_be_built(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    name = "torchvision:mobilenet_v2,round_nearest=0"
    header = {"version": 1, "architecture": name, "plan": EMPTY}
    save_file({"x": torch.zeros(1)}, path, {"format": "pt", "decompose": json.dumps(header)})
    with pytest.raises(DecomposeError, match=rf"a\.safetensors: {name}: integer division"):
        decompose.load(path)


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
    model = Tied()
    decompose.save(model, tmp_path / "tied.safetensors")
    again = decompose.load(tmp_path / "tied.safetensors", Tied())
    assert again.get_parameter("a.weight") is again.get_parameter("b.weight")
    assert torch.equal(again(EXAMPLE), model(EXAMPLE))


def test_tied_weights_that_differ_in_a_file_are_refused(tmp_path: Path) -> None:
    state = {"a.weight": torch.zeros(3, 3, 3, 3), "b.weight": torch.ones(3, 3, 3, 3)}
    torch.save(state, tmp_path / "untied.pth")
    with pytest.raises(DecomposeError, match=r"a\.weight, b\.weight are one in the model"):
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
    model = decompose.load("torchvision:mnasnet0_5,weights=none")
    decompose.save(model, tmp_path / "mnasnet.safetensors")
    again = decompose.load(tmp_path / "mnasnet.safetensors")
    assert torch.equal(again(EXAMPLE), model(EXAMPLE))


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
    for name in ("net.py", "net.py:build"):
        with pytest.raises(DecomposeError, match=r"Python files are not run .* export it to ONNX"):
            decompose.load(tmp_path / name)
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
