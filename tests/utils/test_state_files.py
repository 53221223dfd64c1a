"""States come back bit for bit."""

from pathlib import Path
from typing import Any

import torch

from decompose.utils.state_files import read_state, write_state

STATE: dict[str, Any] = {
    "weights": {"a.weight": torch.randn(3, 2), "tied": torch.arange(4)},
    "numbers": {0: {"step": torch.tensor(3.0), "rate": 0.1}, 1: {}},
    "list": [1, None, True, "text", [torch.randn(2, dtype=torch.float64)], 1e-300],
    "half": torch.randn(2, 3).bfloat16().T,
    "empty": torch.empty(0),
}


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key, part in one.items():
            assert_same(part, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for part, match in zip(one, other, strict=True):
            assert_same(part, match)
    else:
        assert one == other


def test_a_state_comes_back(tmp_path: Path) -> None:
    write_state(tmp_path / "s.safetensors", STATE)
    assert_same(STATE, read_state(tmp_path / "s.safetensors"))


def test_tensors_may_share_memory(tmp_path: Path) -> None:
    row = torch.randn(4)
    write_state(tmp_path / "s.safetensors", {"a": row, "b": row[1:], "c": row})
    assert torch.equal(read_state(tmp_path / "s.safetensors")["b"], row[1:])
