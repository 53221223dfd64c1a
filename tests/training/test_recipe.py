"""Settings are checked before anything is computed."""

from typing import Any

import pytest

from decompose.training.recipe import Recipe
from decompose.utils.errors import DecomposeError


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"optimiser": "lion"}, "optimiser 'lion': choose of sgd, adamw"),
        ({"precision": "int8"}, "choose of no, fp16, bf16"),
        ({"epochs": 0}, "epochs 0: must be 1 or more"),
        ({"patience": 0}, "patience 0"),
        ({"weight_decay": -1.0}, "weight_decay -1.0: must not be negative"),
        ({"features": -0.5}, "features"),
        ({"labels": float("nan")}, "labels nan"),
        ({"learning_rate": 0.0}, "learning_rate 0.0: must be positive"),
        ({"warmup": 1.0}, "warmup 1.0"),
        ({"holdout": 1.0}, "holdout 1.0: must lie between 0 and 1"),
    ],
)
def test_settings_out_of_bounds_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(DecomposeError, match=message):
        Recipe(**setting)


def test_the_learning_rate_is_the_optimisers_unless_given() -> None:
    assert Recipe().peak == 0.01
    assert Recipe(optimiser="adamw").peak == 1e-4
    assert Recipe(learning_rate=0.3).peak == 0.3
