"""Guo et al., "Network Decoupling" (BMVC 2018): every table and figure of VGG16, without training.

(a) single methods, and (b) their combinations, at a drop of 1.0 points; (c) both orders of network
decoupling with one to nine terms; (d) the energy that the first terms of each layer hold. The
methods are those of the papers: network decoupling without data, channel and spatial decomposition
and channel pruning from sampled activations, each layer reconstructed on what the layers before it
give. Each figure stands beside the reported one.

    python experiments/bmvc2018/run.py --output runs/bmvc2018                       # Fashion-MNIST
    python experiments/bmvc2018/run.py --table c --output runs/bmvc2018             # one table alone
    python experiments/bmvc2018/run.py --data imagenet/val --calibrate imagenet/train --device cuda

With ``--data`` this is the paper's experiment: torchvision's VGG16, the drop one of top-5 accuracy.
Without, the same code runs on Fashion-MNIST (``subject.py``), the drop one of top-1 accuracy, in
about half an hour on two cores; with ``--small``, on scikit-learn's digits in a few minutes, to see that it
runs. Expect the MACs of (c) to be the paper's to the last digit, and the other figures to differ as
the data do. What is measured is kept, a file a network, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bisection import Point, bisect
from config import COMBINED, DIGITS, DROP, FASHION, IMAGENET, MASK, NUM_TERMS, ORDERS, SINGLE
from pictures import draw
from recipes import treatments
from subject import Subject, accuracy, imagenet, offline
from table import tables
from torch import nn

import decompose
from decompose.choices import Choice
from decompose.errors import DecomposeError
from decompose.files import write_text
from decompose.methods import get_method
from decompose.plans import Plan
from decompose.progress import track
from decompose.records import render
from decompose.report import show_table
from decompose.sampling import Sampler
from decompose.treatments import apply_treatments

TABLES = ("a", "b", "c", "d")


def main(
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path(
        "runs/bmvc2018"
    ),
    table: Annotated[str, typer.Option(help="a, b, c, d or all.")] = "all",
    data: Annotated[Path | None, typer.Option(help="ImageNet's validation set.")] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Folder of unlabelled pictures, with --data.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where networks run, with --data.")] = "cpu",
    small: Annotated[bool, typer.Option(help="A few digits only, to see that it runs.")] = False,
) -> None:
    """Measure the tables asked for, and write down all that is measured by then."""
    asked = TABLES if table == "all" else (table,)
    if table not in (*TABLES, "all"):
        raise typer.BadParameter(f"there is no table {table}; there are: {', '.join(TABLES)}, all")
    if data is not None and calibrate is None:
        raise typer.BadParameter("--data needs --calibrate: unlabelled pictures to fit on")
    setting = IMAGENET if data is not None else DIGITS if small else FASHION
    record = _resumed(output / "results.json", asdict(setting))
    if data is not None and calibrate is not None:
        subject = imagenet(setting, data, calibrate, device)
    else:
        subject = offline(setting)
    study = Study(subject, output / "points")
    record |= {
        "environment": environment(),
        "original": study.original,
        "masked_macs": masked_macs(subject),
    }
    for name in asked:
        start = time.perf_counter()
        record[name] = {"a": single, "b": combined, "c": sweep, "d": energies}[name](study)
        record.setdefault("seconds", {})[name] = time.perf_counter() - start
        write_text(output / "results.json", json.dumps(record, indent=1) + "\n")
    write_text(output / "results.md", render(tables(record)))
    draw(record, output)
    for made in tables(record):
        show_table(made)
    print(f"\nFiles in {output}: {', '.join(sorted(path.name for path in output.iterdir()))}")


class Study:
    """A subject, and what has been measured of the networks made from it.

    Args:
        subject: the network and its data.
        folder: where what is measured is kept, a file a network.
    """

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject, self._folder = subject, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.original = {
            "macs": subject.macs(subject.network),
            "subset": self._kept("original subset", self._accuracy_on_subset),
            "confirmation": self._kept("original", self._accuracy_on_all),
        }
        self.small = lru_cache(maxsize=2 * subject.setting.num_steps)(self._small)

    def _accuracy_on_subset(self) -> dict[str, float]:
        return accuracy(self.subject.network, self.subject.subset)

    def _accuracy_on_all(self) -> dict[str, float]:
        return accuracy(self.subject.network, self.subject.confirmation)

    @property
    def sampler(self) -> Sampler:
        """The sampled activations, drawn when they are first asked for."""
        if not hasattr(self, "_sampler"):
            subject = self.subject
            self._sampler = Sampler(
                subject.network,
                subject.calibration,
                list(subject.layers.values()),
                num_places=subject.setting.num_places,
                batch_size=100,
            )
        return self._sampler

    def at_drop(self, recipe: str) -> dict[str, Any] | None:
        """A recipe at the strength where it loses as much as is allowed, confirmed."""
        setting = self.subject.setting
        best = bisect(lambda strength: self.measure(recipe, strength), DROP, setting.num_steps)
        if best is None:
            return None
        found = self._kept(
            f"{recipe} {best['strength']:.6f} confirmed",
            lambda: accuracy(self.small(recipe, best["strength"]), self.subject.confirmation),
        )
        return {**best, "confirmation": found}

    def measure(self, recipe: str, strength: float) -> Point:
        """MACs and accuracy on the subset of a recipe at a strength."""
        before = self.original["subset"][self.subject.setting.criterion]

        def measured() -> dict[str, Any]:
            start = time.perf_counter()
            small = self.small(recipe, strength)
            made = time.perf_counter() - start
            reached = accuracy(small, self.subject.subset)
            return {
                "strength": strength,
                "macs": self.subject.macs(small),
                "subset": reached,
                "drop": before - reached[self.subject.setting.criterion],
                "seconds": made,
            }

        return self._kept(f"{recipe} {strength:.6f}", measured)

    def decoupled(self, method: str, num_terms: int) -> dict[str, Any]:
        """MACs and accuracy of network decoupling with so many terms, ``MASK`` left dense."""

        def measured() -> dict[str, Any]:
            small = decompose.apply(
                masked_plan(self.subject, method, num_terms), self.subject.network
            )
            reached = accuracy(small, self.subject.subset)
            return {"macs": self.subject.macs(small), "subset": reached}

        return self._kept(f"{method} {num_terms}", measured)

    def _small(self, recipe: str, strength: float) -> nn.Module:
        subject = self.subject
        chosen = treatments(recipe, strength, subject.convs, subject.setting.inner_energy)
        return apply_treatments(
            {subject.layers[name]: treatment for name, treatment in chosen.items()},
            subject.network,
            self.sampler,
            rounds=subject.setting.num_rounds,
        )

    def _kept(self, name: str, measure: Any) -> Any:
        """What was measured before, or is now and kept."""
        path = self._folder / f"{name.replace(' ', '_')}.json"
        if not path.exists():
            write_text(path, json.dumps(measure(), indent=1) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))


def single(study: Study) -> dict[str, Any]:
    """(a) One method at a time."""
    return {recipe: study.at_drop(recipe) for recipe in track(SINGLE, "single methods")}


def combined(study: Study) -> dict[str, Any]:
    """(b) Combinations, without and with network decoupling."""
    recipes = [name + end for name in COMBINED for end in ("", "+ND")]
    return {recipe: study.at_drop(recipe) for recipe in track(recipes, "combinations")}


def sweep(study: Study) -> dict[str, Any]:
    """(c) Both orders, one to nine terms."""
    return {
        method: [study.decoupled(method, terms) for terms in track(NUM_TERMS, method)]
        for method in ORDERS
    }


def energies(study: Study) -> dict[str, Any]:
    """(d) The share of each kernel's energy that its first terms hold."""
    return {
        method: {
            name: get_method(method).energy(conv).tolist()
            for name, conv in study.subject.convs.items()
        }
        for method in ORDERS
    }


def masked_macs(subject: Subject) -> dict[str, list[int]]:
    """MACs of both orders with one to nine terms, from shapes alone."""
    return {
        method: [
            subject.macs(
                decompose.convert.rebuild(masked_plan(subject, method, n), subject.network)
            )
            for n in NUM_TERMS
        ]
        for method in ORDERS
    }


def masked_plan(subject: Subject, method: str, num_terms: int) -> Plan:
    """So many terms in each layer, or as many as make it exact, ``MASK`` left dense."""
    bound = get_method(method).max_rank
    return Plan(
        {
            subject.layers[name]: Choice(method, min(num_terms, bound(conv)))
            for name, conv in subject.convs.items()
            if name not in MASK
        }
    )


def environment() -> dict[str, Any]:
    """What the figures were measured with."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _resumed(path: Path, setting: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier run wrote.

    Raises:
        DecomposeError: it was measured on something else.
    """
    if not path.exists():
        return {"setting": dict(setting)}
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["setting"] != setting:
        raise DecomposeError(f"{path}: holds figures of another setting; give another --output")
    return record


if __name__ == "__main__":
    typer.run(main)
