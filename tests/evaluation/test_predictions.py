"""Outcomes of parts add up to those of the whole, and round-trip through files."""

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from decompose.evaluation.predictions import Predictions


def some(indices: list[int]) -> Predictions:
    """Outcomes of two models that follow from the indices."""
    at = torch.tensor(indices, dtype=torch.int64)
    guesses = torch.stack([torch.stack([at % 3, at % 2 + 1]), torch.stack([at % 2, at % 3])])
    return Predictions(at, at % 4, guesses.transpose(1, 2).contiguous(), {f"{indices}": "is none"})


@given(st.lists(st.integers(0, 20), unique=True, min_size=1), st.integers(1, 4))
def test_parts_add_up(indices: list[int], count: int) -> None:
    parts = [some(indices[index::count]) for index in range(count)]
    # One part twice, as where a process was stopped after it had been read.
    joined = Predictions.joined([*parts, parts[0]])
    whole = some(sorted(indices))
    for name in ("indices", "labels", "guesses"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))


def test_hits_and_agreement_by_hand() -> None:
    guesses = torch.tensor([[[0, 1], [2, 1], [1, 0]], [[1, 0], [2, 0], [0, 2]]])
    outcomes = Predictions(torch.arange(3), torch.tensor([0, 1, 2]), guesses)
    assert outcomes.hits(1).tolist() == [[True, False, False], [False, False, False]]
    assert outcomes.hits(2).tolist() == [[True, True, False], [True, False, True]]
    assert outcomes.agreement(0) == 1
    assert outcomes.agreement(1) == 1 / 3


def test_files_hold_what_was_saved_and_are_known_by_their_key(tmp_path: Path) -> None:
    path = tmp_path / "outcomes"
    saved = some([2, 3, 5])
    saved.save(path, "of these")
    read = Predictions.load(path, "of these")
    assert read is not None
    assert torch.equal(read.guesses, saved.guesses)
    assert read.unreadable == saved.unreadable
    assert Predictions.load(path, "of others") is None
    path.write_bytes(path.read_bytes()[:-1])
    assert Predictions.load(path, "of these") is None
    assert Predictions.load(tmp_path / "missing", "of these") is None


def test_a_flipped_bit_is_noticed_wherever_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "outcomes"
    some([2, 3, 5, 7]).save(path, "key")
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        found = Predictions.load(path, "key")
        # Spaces of the header are nothing.
        assert found is None or torch.equal(found.guesses, some([2, 3, 5, 7]).guesses)
        assert found is None or found.unreadable == some([2, 3, 5, 7]).unreadable
