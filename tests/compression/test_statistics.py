"""Statistics in one pass, beside the same computed at once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from decompose.algebra import patches
from decompose.compression import statistics
from decompose.compression.statistics import Statistics, gather
from decompose.layers.discovery import find_decomposable
from decompose.layers.modules import to_conv
from decompose.utils.errors import DecomposeError
from tests.support.strategies import Mixed

X = torch.randn(6, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 2


class Twice(nn.Module):
    """A layer used twice, a residual sum, and a channel that is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=2)
        with torch.no_grad():
            self.first.weight[1] = 0
            self.first.bias[1] = -1  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, 4, H, W)``."""
        x = self.first(x).relu_()
        return x + self.conv(self.conv(x).relu_())


def at_once(model: Twice) -> Tensor:
    seen: list[Tensor] = []
    handle = model.conv.register_forward_hook(lambda _, x, y: seen.append(x[0].clone()))
    with torch.no_grad():
        model(X)
    handle.remove()
    rows = patches(to_conv(model.conv), torch.cat(seen)).flatten(1)
    return rows.unflatten(1, (2, -1)).transpose(0, 1)


def test_one_pass_gives_what_all_patches_give() -> None:
    model = Twice().double()
    layer = gather(model, X.split(2), find_decomposable(model)).layers["conv"]
    rows = at_once(model)
    assert layer.num_patches == rows.shape[1]
    torch.testing.assert_close(layer.mean, rows.mean(1))
    centred = rows - rows.mean(1, keepdim=True)
    torch.testing.assert_close(layer.covariance, centred.mT @ centred / rows.shape[1])
    channels = rows.unflatten(2, (2, 9)) - rows.mean(1).unflatten(1, (2, 9)).unsqueeze(1)
    expected = torch.einsum("gnik,gnjk->gij", channels, channels) / rows.shape[1] / 9
    torch.testing.assert_close(layer.channel_covariance(9), expected)
    taps = torch.einsum("gnik,gnil->kl", channels, channels) / rows.shape[1] / 4
    torch.testing.assert_close(layer.tap_covariance(9), taps)


def test_the_metric_of_a_linear_output_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_MOST_DIFFERENTIATED", 300)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    )
    model.double()
    metric = gather(model, X.repeat(50, 1, 1, 1), find_decomposable(model)).layers["0"].metric[0]
    matrix = model[3].weight.detach() / 100  # type: ignore[union-attr]
    with torch.no_grad():
        energy = model(X).square().sum() / len(X)
    expected = 100 * matrix.T @ matrix / energy
    # Random signs stand for all directions of the output.
    assert (metric - expected).norm() < 0.2 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_precision_and_every_kind_of_layer(dtype: torch.dtype) -> None:
    model = Mixed().to(dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    statistics = gather(model, torch.randn(2, 3, 32, 32), find_decomposable(model))
    assert {"stem", "heads.mask", "grouped", "classifier"} <= set(statistics.layers)
    for layer in statistics.layers.values():
        assert all(torch.isfinite(t).all() for t in (layer.mean, layer.covariance, layer.metric))
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_gradients_of_some_inputs_stand_for_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Twice().double()
    layers = find_decomposable(model)
    monkeypatch.setattr(statistics, "_MOST_DIFFERENTIATED", 1)
    inputs = X.repeat(4, 1, 1, 1)  # 16 pass together
    found = gather(model, inputs, layers).layers["conv"]
    first = gather(model, inputs[:16], layers).layers["conv"]
    torch.testing.assert_close(found.metric, first.metric)
    assert found.num_patches > first.num_patches


def test_they_can_be_kept(tmp_path: Path) -> None:
    model = Twice()
    statistics = gather(model, X, find_decomposable(model))
    statistics.save(tmp_path / "kept.safetensors")
    again = Statistics.load(tmp_path / "kept.safetensors")
    assert (again.num_inputs, again.corrections) == (6, {})
    for name, layer in statistics.layers.items():
        assert again.layers[name].num_patches == layer.num_patches
        assert torch.equal(again.layers[name].covariance, layer.covariance)
        assert torch.equal(again.layers[name].metric, layer.metric)


def test_what_holds_no_statistics(tmp_path: Path) -> None:
    with pytest.raises(DecomposeError, match=r"none\.safetensors: cannot be read as statistics"):
        Statistics.load(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("text")
    with pytest.raises(DecomposeError, match="cannot be read as statistics"):
        Statistics.load(tmp_path / "text")
    with pytest.raises(DecomposeError, match="there are no inputs"):
        gather(Twice(), X[:0], {})


def gathered() -> Statistics:
    model = Twice().double()
    return gather(model, X, find_decomposable(model))


def rewritten(path: Path, change: Callable[[dict, dict], None], digest: str | None) -> None:
    """Change the contents of a file of statistics."""
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    record = json.loads(metadata["record"])
    change(record, tensors)
    metadata["record"] = json.dumps(record)
    metadata.pop("sha256")
    if digest is not None:
        metadata["sha256"] = digest
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    "change",
    [
        lambda record, _: record.pop("gains"),
        lambda record, _: record.update(num_inputs=-1),
        lambda record, _: record.update(gains={"conv": {"svd": -1.0}}),
        lambda record, _: record.update(gains={"nowhere": {"svd": 1.0}}),
        lambda record, _: record.update(gains={"conv": {"svd": float("nan")}}),
        lambda record, _: record["num_patches"].update(nowhere=3),
        lambda record, _: record["num_patches"].update(conv="many"),
        lambda _, tensors: tensors["conv/covariance"].mul_(-1),
        lambda _, tensors: tensors["conv/mean"].fill_(float("nan")),
        lambda _, tensors: tensors["conv/metric"].mul_(-1),
        lambda _, tensors: tensors["conv/covariance"][0, 0, 1:].fill_(1e6),
        lambda _, tensors: tensors.update({"conv/mean": torch.zeros(2, 3)}),
        lambda _, tensors: tensors.update({"conv/metric": torch.zeros(1, 2, 2, dtype=torch.int8)}),
    ],
)
def test_what_are_no_statistics_is_one_line(
    tmp_path: Path, change: Callable[[dict, dict], None]
) -> None:
    path = tmp_path / "a.safetensors"
    gathered().save(path)
    rewritten(path, lambda *_: None, None)
    assert Statistics.load(path).layers.keys() == {"first", "conv"}
    gathered().save(path)
    rewritten(path, change, None)
    with pytest.raises(DecomposeError, match=r"a\.safetensors: is damaged and holds no statistics"):
        Statistics.load(path)


def test_a_flipped_bit_of_statistics_is_noticed_and_files_are_reproducible(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    found = gathered()
    contents = set()
    for _ in range(4):
        found.save(path)
        contents.add(path.read_bytes())
    (content,) = contents
    damaged = bytearray(content)
    damaged[-9] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DecomposeError, match="is damaged"):
        Statistics.load(path)
