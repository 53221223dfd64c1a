"""The core of experiments/bmvc2018, in small: a few digits, few steps."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from experiments.common.records import render

FOLDER = Path(__file__).parents[2] / "experiments" / "bmvc2018"


@pytest.fixture(scope="module")
def experiment() -> ModuleType:
    """Its ``run.py``, imported by the tests that need it only: it draws in matplotlib."""
    return import_module("experiments.bmvc2018.run")


@pytest.fixture(scope="module")
def study(experiment: ModuleType, tmp_path_factory: pytest.TempPathFactory):
    setting = replace(
        experiment.DIGITS,
        num_calibrated=20,
        num_subset=40,
        num_confirmed=60,
        num_fitted=150,
        num_tuned=40,
        num_steps=2,
        num_rounds=1,
    )
    return experiment.Study(experiment.offline(setting), tmp_path_factory.mktemp("points"))


@pytest.fixture(scope="module")
def counted(experiment: ModuleType, study) -> dict[str, list[int]]:
    return experiment.masked_macs(study.subject)


def test_macs_are_the_papers(counted: dict[str, list[int]], study) -> None:
    assert study.original["macs"] / 1e9 == pytest.approx(15.47, abs=5e-3)
    for terms, reported in ((3, 6.49), (4, 8.12), (5, 9.76)):
        assert counted["pw_dw"][terms - 1] / 1e9 == pytest.approx(reported, abs=5e-3)


def test_every_method_at_once_saves_macs_and_is_measured_once(study) -> None:
    point = study.measure("all", dict.fromkeys(("CD", "SD", "CP"), 0.25), 0.95)
    assert point["macs"] < 0.6 * study.original["macs"]
    assert 0 < point["subset"]["top1"] <= 1
    assert study.measure("all", {}, None) == point


def test_tables_follow_from_what_was_measured(
    experiment: ModuleType, study, counted: dict[str, list[int]]
) -> None:
    record = {
        "setting": asdict(study.subject.setting),
        "original": study.original,
        "masked_macs": counted,
        "a": {"ND": study.single("ND"), "SD": None},
        "d": dict(experiment.energies(study)),
        "e": dict(experiment.finetuned(study)),
    }
    text = render(experiment.tables(json.loads(json.dumps(record))))
    assert "GMACs, scikit-learn's digits" in text
    assert "loses more at any strength" in text
    assert "top-1, ImageNet" not in text
    assert "training-free and finetuned for 1 epoch(s) of 40 images" in text


@pytest.mark.usefixtures("experiment")
def test_bisection_ends_at_the_largest_drop_allowed() -> None:
    from experiments.bmvc2018.bisection import bisect

    asked = []

    def measure(strength: float) -> dict[str, float]:
        asked.append(strength)
        return {"strength": strength, "drop": strength**2}

    best = bisect(measure, 0.3, 8)
    assert best is not None
    assert best["strength"] == pytest.approx(0.3**0.5, abs=2**-8)
    assert best["drop"] <= 0.3
    assert len(asked) == 8
    assert bisect(measure, -1.0, 3) is None
