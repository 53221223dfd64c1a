"""Guo et al., "Network Decoupling" (BMVC 2018): every table and figure of VGG16.

(a) single methods, and (b) their combinations, at a drop of 1.0 points; (c) both orders of network
decoupling with one to nine terms; (d) the energy that the first terms of each layer hold. The
methods are those of the papers: network decoupling without data, channel and spatial decomposition
and channel pruning from sampled activations, each layer reconstructed on what the layers before it
give. Each figure stands beside the reported one.

    python -m experiments.bmvc2018.run --output runs/bmvc2018                       # Fashion-MNIST
    python -m experiments.bmvc2018.run --table c --output runs/bmvc2018             # one table alone
    python -m experiments.bmvc2018.run --data imagenet/val --calibrate imagenet/train --train imagenet \
        --device cuda
    python -m experiments.bmvc2018.run --small --output runs/small       # to see that it runs

With ``--data`` this is the paper's experiment: torchvision's VGG16, the drop one of top-5 accuracy.
Without, the same code runs on Fashion-MNIST (``subject.py``), the drop one of top-1 accuracy, in
about half an hour on two cores; with ``--small``, on few of its images, or on scikit-learn's
digits where it is not installed, in a few minutes. Expect the MACs of (c) to be the paper's to the
last digit, and the other figures to differ as the data do. What is measured is kept, a file a
network, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from decompose.data.bundled import FASHION_MNIST
from decompose.methods import get_method
from decompose.models.conversion import rebuild
from decompose.utils.environment import environment
from decompose.utils.progress import track
from experiments.bmvc2018.config import (
    DIGITS,
    FASHION,
    IMAGENET,
    IMAGENET_SMALL,
    NUM_TERMS,
    ORDERS,
    RECIPES,
    SMALL,
)
from experiments.bmvc2018.figures import draw
from experiments.bmvc2018.study import Study, masked_plan
from experiments.bmvc2018.subject import Subject, imagenet, offline
from experiments.bmvc2018.table import tables
from experiments.common.records import keep, publish, take_up


def main(
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path(
        "runs/bmvc2018"
    ),
    table: Annotated[str, typer.Option(help="a, b, c, d, e or all.")] = "all",
    data: Annotated[Path | None, typer.Option(help="ImageNet's validation set.")] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Folder of unlabelled images, with --data.")
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="ImageNet's training set, with --data, for table e.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where networks run, with --data.")] = "cpu",
    small: Annotated[bool, typer.Option(help="Few images, to see that it runs.")] = False,
) -> None:
    """Measure the tables asked for, and write down all that is measured by then."""
    asked = list(PARTS) if table == "all" else [table]
    if table not in (*PARTS, "all"):
        raise typer.BadParameter(f"there is no table {table}; there are: {', '.join(PARTS)}, all")
    if data is not None and calibrate is None:
        raise typer.BadParameter("--data needs --calibrate: unlabelled images to fit on")
    if data is not None:
        setting = IMAGENET_SMALL if small else IMAGENET
    else:
        little = SMALL if FASHION_MNIST.is_dir() else DIGITS
        setting = little if small else FASHION
    record = take_up(output / "results.json", asdict(setting))
    if data is not None and calibrate is not None:
        subject = imagenet(setting, data, calibrate, train, device)
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
        record[name] = {}
        for row, found in PARTS[name](study):
            record[name][row] = found
            keep(record, output / "results.json")
        record.setdefault("seconds", {})[name] = time.perf_counter() - start
    keep(record, output / "results.json")
    draw(record, output)
    publish(tables(record), output)


def single(study: Study) -> Iterator[tuple[str, Any]]:
    """(a) One method at a time."""
    for recipe in track(RECIPES["a"], "single methods"):
        yield recipe, study.single(recipe)


def combined(study: Study) -> Iterator[tuple[str, Any]]:
    """(b) Combinations, without and with network decoupling."""
    for recipe in track(RECIPES["b"], "combinations"):
        yield recipe, study.combined(recipe)


def sweep(study: Study) -> Iterator[tuple[str, Any]]:
    """(c) Both orders, one to nine terms."""
    for method in ORDERS:
        yield method, [study.decoupled(method, terms) for terms in track(NUM_TERMS, method)]


def energies(study: Study) -> Iterator[tuple[str, Any]]:
    """(d) The share of each kernel's energy that its first terms hold."""
    for method in ORDERS:
        held = {n: get_method(method).energy(conv) for n, conv in study.subject.convs.items()}
        yield method, {name: shares.tolist() for name, shares in held.items()}


def finetuned(study: Study) -> Iterator[tuple[str, Any]]:
    """(e) Network decoupling before and after finetuning."""
    yield from study.finetuned().items()


PARTS: Mapping[str, Callable[[Study], Iterator[tuple[str, Any]]]] = {
    "c": sweep,
    "d": energies,
    "a": single,
    "e": finetuned,
    "b": combined,
}
"""The quick ones first."""


def masked_macs(subject: Subject) -> dict[str, list[int]]:
    """MACs of both orders with one to nine terms, from shapes alone."""
    return {
        method: [
            subject.macs(rebuild(masked_plan(subject, method, n), subject.network))
            for n in NUM_TERMS
        ]
        for method in ORDERS
    }


if __name__ == "__main__":
    typer.run(main)
