"""Latencies are measured once and kept; their size is the machine's affair."""

import json
from pathlib import Path

import pytest
import torch

from decompose.algebra import Conv
from decompose.inference import latency
from decompose.inference.engines import Eager
from decompose.inference.latency import Latencies, LayerVariant, Target
from decompose.inference.timing import Timed
from decompose.layers.modules import to_conv
from decompose.methods.choices import Choice


def place(threads: int = 1) -> Target:
    return Target(Eager(), threads, torch.device("cpu"))


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = to_conv(torch.nn.Conv2d(4, 8, 3, padding=1)).without_weights()
    variants = [
        LayerVariant(None),
        LayerVariant(Choice("pw_dw", 1)),
        LayerVariant(Choice("pw_dw", 3)),
    ]
    times = Latencies(place(), tmp_path).measure(conv, variants, (2, 4, 9, 9))
    assert len(times) == 3
    assert all(time > 0 for time in times)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("timed again")

    monkeypatch.setattr(latency, "time_in_turns", refuse)
    again = Latencies(place(), tmp_path)
    assert again.measure(conv, variants[::-1], (2, 4, 9, 9)) == times[::-1]
    biased = to_conv(torch.nn.Conv2d(4, 8, 3, padding=1, bias=False)).without_weights()
    strided = to_conv(torch.nn.Conv2d(4, 8, 3, padding=1, stride=2)).without_weights()
    for other, shape in ((conv, (1, 4, 9, 9)), (biased, (2, 4, 9, 9)), (strided, (2, 4, 9, 9))):
        with pytest.raises(AssertionError, match="timed again"):
            again.measure(other, [LayerVariant(None)], shape)
    for form in ("merged", "branches-whole"):
        with pytest.raises(AssertionError, match="timed again"):
            again.measure(conv, [LayerVariant(Choice("pw_dw", 3), form)], (2, 4, 9, 9))
    # Multiplied back, a layer is what it was.
    assert (
        again.measure(conv, [LayerVariant(Choice("pw_dw", 3), "dense")], (2, 4, 9, 9)) == times[:1]
    )
    with pytest.raises(AssertionError, match="timed again"):
        Latencies(place(threads=2), tmp_path).measure(conv, variants, (2, 4, 9, 9))


def test_later_measurements_are_scaled_to_the_first_of_the_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = Conv(torch.randn(8, 4, 3, 3)).without_weights()
    first, second = LayerVariant(Choice("pw_dw", 1)), LayerVariant(Choice("pw_dw", 2))
    known = Latencies(place(), tmp_path)
    scripted = iter([(10.0, 5.0), (20.0, 8.0)])

    def timed(calls: dict, *_: object, **__: object) -> dict:
        return {name: Timed(ms, 0.0) for name, ms in zip(calls, next(scripted), strict=True)}

    monkeypatch.setattr(latency, "time_in_turns", timed)
    assert known.measure(conv, [first], (1, 4, 9, 9)) == [5.0]
    # The machine is now half as fast.
    assert known.measure(conv, [second, first], (1, 4, 9, 9)) == [4.0, 5.0]


def test_a_damaged_cache_is_measured_anew(tmp_path: Path) -> None:
    conv = to_conv(torch.nn.Conv2d(4, 8, 3)).without_weights()
    Latencies(place(), tmp_path).measure(conv, [LayerVariant(None)], (1, 4, 9, 9))
    (path,) = tmp_path.iterdir()
    path.write_text('{"milliseconds": [')
    (time,) = Latencies(place(), tmp_path).measure(conv, [LayerVariant(None)], (1, 4, 9, 9))
    assert time > 0


def test_a_cache_that_cannot_be_written_costs_nothing_but_a_warning(tmp_path: Path) -> None:
    conv = to_conv(torch.nn.Conv2d(4, 8, 3)).without_weights()
    (tmp_path / "file").touch()
    latencies = Latencies(place(), tmp_path / "file" / "folder")
    with pytest.warns(UserWarning, match="latencies are not kept: Not a directory"):
        assert latencies.measure(conv, [LayerVariant(None)], (1, 4, 5, 5))[0] > 0


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"milliseconds": 3}', '{"milliseconds": {"KEY": "3"}}', "[" * 100_000]
    + [f'{{"milliseconds": {{"KEY": {ms}}}}}' for ms in ("0", "-1", "NaN", "Infinity", "null")],
)
def test_a_damaged_cache_is_measured_again(tmp_path: Path, content: str) -> None:
    conv = to_conv(torch.nn.Conv2d(4, 8, 3)).without_weights()
    Latencies(place(), tmp_path).measure(conv, [LayerVariant(None)], (1, 4, 5, 5))
    (path,) = tmp_path.iterdir()
    (key,) = json.loads(path.read_text())["milliseconds"]
    path.write_text(content.replace("KEY", key))
    (again,) = Latencies(place(), tmp_path).measure(conv, [LayerVariant(None)], (1, 4, 5, 5))
    assert 0 < again < 1e4
