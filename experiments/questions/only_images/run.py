"""Only for images? The same decomposition of a 1-D network over signals and a 3-D one over volumes.

Both are trained here, on data made here (``signals``, ``volumes``), and decomposed by the same call as
any network of images, at several ranks and in both orders (PW+DW and DW+PW), without training: as
truncated, and repaired on unlabelled inputs.

    python -m experiments.questions.only_images.run --output runs/only_images

Six minutes on two cores. Expect two terms of PW+DW, repaired, to lose two or three points of accuracy
at about three times fewer MACs, and four terms half a point. ``table.py`` renders the figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import decompose
from decompose.utils.progress import track
from experiments.common.records import keep, publish
from experiments.common.small_classifiers import accuracy, costs, train_
from experiments.questions.only_images import signals, volumes
from experiments.questions.only_images.networks import classifier
from experiments.questions.only_images.plot import draw_accuracy, draw_inputs
from experiments.questions.only_images.table import summarize

SEEDS = 3
RANKS = (1, 2, 4, 6)
ORDERS = ("pw_dw", "dw_pw")
NUM_TRAIN, NUM_TEST, NUM_CALIBRATE = 4000, 1000, 48


@dataclass(frozen=True)
class Task:
    """What a network learns.

    Attributes:
        title: for readers.
        make: inputs and labels, from their number and a seed.
        classes: the names of the labels.
        num_axes: of an input.
        kernel_size: taps along each axis.
        widths: channels of the network's convolutions.
        epochs: how often it sees every input.
    """

    title: str
    make: Callable[[int, int], tuple[Tensor, Tensor]]
    classes: Sequence[str]
    num_axes: int
    kernel_size: int
    widths: Sequence[int]
    epochs: int


TASKS = (
    Task("1-D, signals", signals.make_signals, signals.CLASSES, 1, 9, (32, 32, 64, 64), 6),
    Task("3-D, volumes", volumes.make_volumes, volumes.CLASSES, 3, 3, (12, 24, 24), 5),
)


def main(
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path(
        "runs/only_images"
    ),
    seeds: Annotated[int, typer.Option(min=2, help="How often each network is trained.")] = SEEDS,
    num_train: Annotated[int, typer.Option(help="Inputs to train on.")] = NUM_TRAIN,
) -> None:
    """Train and decompose both networks with every seed, and write it all down."""
    output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    record = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seeds": list(range(seeds)),
        "ranks": RANKS,
        "num_train": num_train,
        "num_test": NUM_TEST,
        "num_calibrate": NUM_CALIBRATE,
        "tasks": [study(task, seeds, num_train) for task in TASKS],
        "seconds": time.perf_counter() - start,
    }
    keep(record, output / "results.json")
    draw_accuracy(record, output / "accuracy.png")
    draw_inputs(
        {task.title: (one_of_each(task), task.classes) for task in TASKS}, output / "inputs.png"
    )
    publish(summarize(record), output)


def study(task: Task, seeds: int, num_train: int) -> dict[str, Any]:
    """Train a network with every seed and decompose it at every rank."""
    accuracies: list[float] = []
    curves = {order: [{"truncated": [], "repaired": []} for _ in RANKS] for order in ORDERS}
    figures: dict[str, Any] = {}
    for seed in track(range(seeds), task.title):
        # Neither other seeds' inputs nor those of the test are trained on.
        train, test = task.make(num_train, 2 * seed), task.make(NUM_TEST, 2 * seed + 1)
        torch.manual_seed(seed)
        network = classifier(task.num_axes, task.widths, task.kernel_size, len(task.classes))
        train_(network, *train, task.epochs)
        accuracies.append(accuracy(network, *test))
        figures = costs(network, test[0][:1])
        for order, points in curves.items():
            for rank, point in zip(RANKS, points, strict=True):
                found = decomposed(network, order, rank, train[0][:NUM_CALIBRATE])
                for how in ("truncated", "repaired"):
                    point[how].append(accuracy(found[how], *test))
                point |= costs(found["truncated"], test[0][:1])
    return {
        "title": task.title,
        "taps": task.kernel_size**task.num_axes,
        "num_classes": len(task.classes),
        **figures,
        "accuracies": accuracies,
        "curves": curves,
    }


def decomposed(
    network: nn.Module, order: str, rank: int, inputs: Tensor
) -> Mapping[str, nn.Module]:
    """The network at a rank, as truncated, and repaired on unlabelled inputs."""
    plan = decompose.plan(network, inputs[:1], method=order, rank=rank)
    return {
        "truncated": decompose.apply(plan, network),
        "repaired": decompose.apply(plan, network, calibrate=inputs),
    }


def one_of_each(task: Task) -> Tensor:
    """An input of every class."""
    inputs, labels = task.make(200, 0)
    return torch.stack([inputs[labels == label][0] for label in range(len(task.classes))])


if __name__ == "__main__":
    typer.run(main)
