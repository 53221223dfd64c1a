"""The zoo: what half the MACs takes of every kind of network, how long the plan takes, and the speed-up.

Each network (``networks``) is planned without data for half its MACs, rewritten, and timed beside its
original, in eager torch and, where it can be exported, in ONNX Runtime. Weights are random, so nothing
is said of accuracy: a plan for trained ones chooses otherwise where kernels have more to give.

    python -m experiments.zoo.run --output runs/zoo
    python -m experiments.zoo.run --output runs/zoo --only ResNet-50     # this one anew

Fifty minutes on one core. Each network leaves a record, and an interrupted run goes on
behind the last. Expect 2.00 times fewer MACs of each; where half cannot be had, the least of
five shares that can. ``table.py`` renders the figures.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

import decompose
from decompose import DecomposeError, Plan
from decompose.evaluation.comparison import compare_weights
from decompose.inference.engines import get_engine
from decompose.inference.latency import Target, time_models
from decompose.utils.batches import Example
from decompose.utils.environment import machine
from decompose.utils.errors import BudgetError
from experiments.common.records import keep, publish
from experiments.zoo.networks import SUBJECTS, Subject
from experiments.zoo.table import summarize

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the MACs: the first that can be reached is taken."""

ENGINES = ("eager", "onnxruntime")


def main(
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path("runs/zoo"),
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    only: Annotated[str | None, typer.Option(help="Make this network's record anew.")] = None,
) -> None:
    """Make the records that are not there yet, and the table of all."""
    if only is not None and only not in SUBJECTS:
        raise typer.BadParameter(f"there is no network {only}; there are: {', '.join(SUBJECTS)}")
    torch.set_num_threads(threads)
    (output / "records").mkdir(parents=True, exist_ok=True)
    networks = {}
    for title, subject in SUBJECTS.items():
        path = output / "records" / f"{re.sub('[^a-z0-9]+', '_', title.lower())}.json"
        if title == only or (only is None and not path.exists()):
            keep(measure(subject, threads), path)
        if path.exists():
            networks[title] = json.loads(path.read_text(encoding="utf-8"))
    record = {
        "machine": machine(torch.device("cpu")),
        "torch": torch.__version__,
        "threads": threads,
        "networks": networks,
    }
    keep(record, output / "results.json")
    publish(summarize(record), output)


def measure(subject: Subject, threads: int) -> dict[str, Any]:
    """Plan, rewrite and time one network."""
    network, example = subject.build()
    started = time.perf_counter()
    plan, share = planned(network, example)
    seconds = time.perf_counter() - started
    small = decompose.apply(plan, network)
    compared = compare_weights(network, small, example)
    methods = Counter(layer.method for layer in compared.layers)
    return {
        "size": list(subject.size),
        "share": share,
        "macs": [compared.macs.before, compared.macs.after],
        "params": [compared.params.before, compared.params.after],
        "methods": dict(methods.most_common()),
        "plan_seconds": seconds,
        "milliseconds": {name: timed(network, small, example, name, threads) for name in ENGINES},
    }


def planned(network: nn.Module, example: Example) -> tuple[Plan, float]:
    """The plan with the fewest MACs down to half, and the share that it keeps."""
    with warnings.catch_warnings():
        # The layers that are left are in the plan.
        warnings.filterwarnings("ignore", message="left dense")
        for share in SHARES:
            try:
                return decompose.plan(network, example, macs=share), share
            except BudgetError:
                continue
    raise BudgetError(f"not even {SHARES[-1]:.0%} of the MACs are enough")


def timed(
    network: nn.Module, small: nn.Module, example: Example, engine: str, threads: int
) -> list[float] | str:
    """Milliseconds of both networks for one input, or why there are none."""
    place = Target(get_engine(engine), threads, torch.device("cpu"))
    try:
        found = time_models({"original": network, "small": small}, example, place)
    except DecomposeError as error:
        return str(error)
    return [found["original"], found["small"]]


if __name__ == "__main__":
    typer.run(main)
