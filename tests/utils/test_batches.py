"""Models called with several inputs, by name, with lists, and with variable shapes."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import decompose
from decompose.layers.costs import trace_shapes
from decompose.layers.discovery import find_layers
from decompose.layers.modules import DecomposedLayer
from decompose.utils.batches import (
    InputBatches,
    batch_size,
    call,
    chunks,
    first,
    grouped,
    in_channels_last,
    map_tensors,
    moved,
    split,
)
from decompose.utils.errors import DecomposeError

LEFT, RIGHT = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)


class Stereo(nn.Module):
    """Two images in, a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> dict[str, Any]:
        """Both through one stem."""
        seen = self.stem(left).relu() + scale * self.stem(right).relu()
        maps = self.body(seen).relu()
        return {"maps": maps, "scores": [self.head(maps.mean((2, 3)))]}


class Tokens(nn.Module):
    """Numbers of tokens in, scores out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 16)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)

    def forward(self, ids: Tensor) -> Tensor:
        """One score a channel."""
        return self.conv(self.embed(ids).mT).mean(-1)


CALLS = {
    "positional": ((LEFT, RIGHT), [((LEFT, RIGHT),)]),
    "by name": ({"left": LEFT, "right": RIGHT, "scale": 0.5},) * 2,
    "variable shapes": (
        {"left": LEFT, "right": RIGHT},
        [{"left": LEFT[..., :size], "right": RIGHT[..., :size]} for size in (16, 12)],
    ),
}


@pytest.mark.parametrize(("example", "images"), CALLS.values(), ids=CALLS)
def test_a_network_of_several_inputs(example: Any, images: Any) -> None:
    model = Stereo().eval()
    plan = decompose.plan(model, example, macs=0.5, calibrate=images)
    small = decompose.apply(plan, model, calibrate=images)
    compared = decompose.compare(model, small, images)
    assert compared.macs.after <= 0.5 * compared.macs.before
    assert compared.output_error is not None
    assert 0 < compared.output_error < 0.5
    assert compared.num_inputs == (8 if isinstance(images, list) and len(images) > 1 else 4)
    assert compared.agreement is None


@pytest.mark.parametrize("example", [(LEFT, RIGHT), {"left": LEFT, "right": RIGHT}])
def test_without_data(example: Any) -> None:
    plan = decompose.plan(Stereo(), example, macs=0.5)
    small = decompose.apply(plan, Stereo())
    assert any(isinstance(layer, DecomposedLayer) for layer in find_layers(small).values())


def test_what_is_costed_is_one_input() -> None:
    shapes = trace_shapes(Stereo(), (LEFT, RIGHT))
    assert shapes["stem"] == [(1, 3, 16, 16)] * 2


def test_tokens_have_gradients_as_well() -> None:
    model, ids = Tokens(), torch.randint(10, (6, 12))
    measured = decompose.measure(model, ids, ids)
    assert measured.layers["conv"].metric.any()
    small = decompose.apply(decompose.plan(model, ids, macs=0.6, calibrate=ids), model)
    assert decompose.compare(model, small, ids).macs.ratio > 1.6


def test_splitting() -> None:
    table = torch.zeros(7)
    example = {"x": LEFT, "boxes": [1, 2, 3, 4], "table": table, "deep": (RIGHT, "word")}
    assert batch_size(example) == 4
    parts = split(example, 3)
    assert [batch_size(part) for part in parts] == [3, 1]
    assert parts[1]["boxes"] == [4]
    assert parts[1]["table"] is table
    assert torch.equal(parts[1]["deep"][0], RIGHT[3:])
    assert first(([LEFT[0], LEFT[1]],))[0][0] is not None
    assert len(first(([LEFT[0], LEFT[1]],))[0]) == 1
    assert batch_size((torch.tensor(1.0),)) == 1


def test_calling() -> None:
    class Echo(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return args, kwargs

    assert call(Echo(), LEFT) == ((LEFT,), {})
    assert call(Echo(), (1, 2)) == ((1, 2), {})
    assert call(Echo(), {"a": 1}) == ((), {"a": 1})
    assert call(Echo(), [LEFT]) == (([LEFT],), {})


def test_moving_leaves_whole_numbers() -> None:
    example = {"x": LEFT, "n": torch.ones(4, dtype=torch.int64)}
    there = moved(example, torch.zeros(1, dtype=torch.float64))
    assert isinstance(there, Mapping)
    assert [there["x"].dtype, there["n"].dtype] == [torch.float64, torch.int64]
    assert map_tensors(lambda x: x + 1, ["a", (LEFT,)])[0] == "a"


X = torch.arange(10.0).view(5, 2)


@pytest.mark.parametrize(
    "images",
    [
        X,
        [X[:2], X[2:]],
        [(X, torch.zeros(5))],
        DataLoader(TensorDataset(X, torch.zeros(5)), batch_size=2),
        (batch for batch in X.split(3)),
    ],
    ids=["tensor", "list", "labelled", "loader", "generator"],
)
def test_they_come_one_by_one_and_again(images: object) -> None:
    inputs = InputBatches(images, nn.Linear(2, 2, dtype=torch.float64))  # type: ignore[arg-type]
    for _ in range(2):
        seen = list(inputs)
        assert [len(x) for x in seen] == [1] * 5
        assert torch.equal(torch.cat(seen), X.double())


def test_they_come_so_many_at_a_time_at_most() -> None:
    inputs = InputBatches([X[:4], X[4:]], nn.Linear(2, 2))
    assert [len(x) for x in inputs.batches(3)] == [3, 1, 1]


def test_what_holds_none() -> None:
    with pytest.raises(DecomposeError, match="there are no inputs"):
        list(chunks(X[:0], 2))
    with pytest.raises(DecomposeError, match="must be tensors, not a str"):
        list(chunks(["a"], 2))


def test_inputs_are_grouped_in_their_order_where_their_shapes_agree() -> None:
    inputs = [torch.full((1, width), float(i)) for i, width in enumerate((2, 2, 2, 3, 2))]
    found = list(grouped([*inputs, (inputs[0],), inputs[1]], 2))
    assert [tuple(x.shape) if isinstance(x, Tensor) else None for x in found] == [
        (2, 2),
        (1, 2),
        (1, 3),
        (1, 2),
        None,
        (1, 2),
    ]
    assert torch.equal(torch.cat(found[:2]), torch.cat(inputs[:3]))


def test_images_alone_are_laid_out_with_the_channels_last() -> None:
    image, row = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4)
    (found,), same = in_channels_last(((image,), row))
    assert torch.equal(found, image)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert same.is_contiguous()
