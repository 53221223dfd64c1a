"""The core of experiments/bmvc2018, in small: a few digits, few steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "bmvc2018"


@pytest.fixture(scope="module")
def experiment() -> Iterator[ModuleType]:
    """Its ``run.py``, whose neighbours have names that other experiments use as well."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    import run  # type: ignore[import-not-found]

    yield run
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if (
            getattr(sys.modules[name], "__file__", None)
            and FOLDER in Path(str(sys.modules[name].__file__)).parents
        ):
            del sys.modules[name]


@pytest.fixture(scope="module")
def study(experiment: ModuleType, tmp_path_factory: pytest.TempPathFactory):
    setting = replace(
        experiment.DIGITS, num_calibrated=40, num_subset=60, num_steps=2, num_rounds=1
    )
    return experiment.Study(experiment.offline(setting), tmp_path_factory.mktemp("points"))


def test_macs_are_the_papers(experiment: ModuleType, study) -> None:
    assert study.original["macs"] / 1e9 == pytest.approx(15.47, abs=5e-3)
    counted = experiment.masked_macs(study.subject)["pw_dw"]
    for terms, reported in ((3, 6.49), (4, 8.12), (5, 9.76)):
        assert counted[terms - 1] / 1e9 == pytest.approx(reported, abs=5e-3)


def test_every_method_at_once_saves_macs_and_is_measured_once(study) -> None:
    point = study.measure("CD+SD+CP+ND", 0.25)
    assert point["macs"] < 0.6 * study.original["macs"]
    assert 0.2 < point["subset"]["top1"] <= 1
    study.small.cache_clear()
    study._small = None
    assert study.measure("CD+SD+CP+ND", 0.25) == point


def test_tables_follow_from_what_was_measured(experiment: ModuleType, study) -> None:
    record = {
        "setting": asdict(study.subject.setting),
        "original": study.original,
        "masked_macs": experiment.masked_macs(study.subject),
        "a": {"ND": study.at_drop("ND"), "SD": None},
        "d": experiment.energies(study),
    }
    text = experiment.render(experiment.tables(json.loads(json.dumps(record))))
    assert "GMACs, scikit-learn's digits" in text
    assert "loses more at any strength" in text
    for line in text.splitlines():
        assert "ImageNet (here)" not in line


def test_bisection_ends_at_the_largest_drop_allowed(experiment: ModuleType) -> None:
    asked = []

    def measure(strength: float) -> dict[str, float]:
        asked.append(strength)
        return {"strength": strength, "drop": strength**2}

    best = experiment.bisect(measure, 0.3, 8)
    assert best["strength"] == pytest.approx(0.3**0.5, abs=2**-8)
    assert best["drop"] <= 0.3
    assert len(asked) == 8
    assert experiment.bisect(measure, -1.0, 3) is None
