"""The model card: what it says follows from the model."""

from typing import Any

import pytest
import torch
from torch import nn

import decompose
from decompose import Choice, Plan
from decompose.evaluation.model_card import model_card
from decompose.layers.costs import count_params
from decompose.utils.errors import DecomposeError
from decompose.utils.hashing import weights_digest

EXAMPLE = torch.zeros(1, 3, 8, 8)


@pytest.fixture
def small() -> nn.Module:
    original = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3))
    return decompose.apply(Plan({"2": Choice("pw_dw", 2)}), original)


def test_every_layer_has_a_row_with_its_method(small: nn.Module) -> None:
    rows = [line.split("|")[1:-1] for line in model_card(small, EXAMPLE, "me/x").text.splitlines()]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if row}
    assert cells["0"][:2] == ["dense", ""]
    assert cells["2"][:2] == ["pw_dw", "2"]
    # A small count is written in full.
    assert float(cells["k parameters"][1]) == pytest.approx(count_params(small) / 1e3, rel=1e-2)


def test_a_model_without_a_name_is_loaded_into_a_model(small: nn.Module) -> None:
    text = model_card(small, EXAMPLE, "me/x").text
    assert text.lstrip().startswith("# x")
    assert ", model)" in text


def test_a_record_is_only_taken_of_these_very_weights(small: nn.Module) -> None:
    own = {"top1": {"value": 0.5, "low": 0.4, "high": 0.6}, "top5": None}
    record = {"data": "/data/birds", "accuracies": {"small": own}, "num_pictures": 7}
    weights = {"small": weights_digest(small)}
    card = model_card(small, EXAMPLE, "me/x", record={**record, "provenance": {"weights": weights}})
    assert "Measured on 7 images of birds" in card.text
    data: Any = card.data
    (result,) = data.eval_results
    assert result.metric_value == 0.5
    other = {**record, "provenance": {"weights": {"small": "0"}}}
    with pytest.raises(DecomposeError, match="other weights"):
        model_card(small, EXAMPLE, "me/x", record=other)


def test_what_names_no_repository(small: nn.Module) -> None:
    with pytest.raises(DecomposeError, match="a/b/c"):
        model_card(small, EXAMPLE, "a/b/c")
