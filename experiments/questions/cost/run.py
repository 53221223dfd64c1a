"""What does it cost in accuracy? Regular and depthwise separable networks, trained alike.

A small regular network on Fashion-MNIST; the same with depthwise separable convolutions in the place
of its own; that made wider, or deeper, until its weights are as many as the regular one's; and the
regular one made narrower until its weights are as few as the separable one's. Then the other way to a
separable network: the trained regular one decomposed (PW+DW), without training, as truncated and
repaired on unlabelled training images.

    python -m experiments.questions.cost.run --output runs/cost

Seven minutes on two cores. Expect the drop-in to lose four points of accuracy and the wider and the deeper
one none, at 1.7 and 2.5 times the regular network's time. ``table.py`` renders the figures.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import decompose
from decompose.data.bundled import fashion_mnist
from decompose.inference.benchmark import time_side_by_side
from decompose.inference.engines import Eager
from decompose.utils.progress import track
from experiments.common.records import keep, publish
from experiments.common.small_classifiers import accuracy, costs, train_
from experiments.questions.cost.networks import Design, as_deep, as_wide, build, num_params
from experiments.questions.cost.plot import draw
from experiments.questions.cost.table import summarize

REGULAR = Design(separable=False, width=16, depth=2)
SEEDS = 3
EPOCHS = 1
RANKS = (1, 2, 3, 4)
NUM_CALIBRATE = 128
"""Unlabelled training pictures to repair on."""

TIMED_BATCH = 64
TIMED_ROUNDS = 15


def designs() -> dict[str, Design]:
    """The networks to train, the regular one first."""
    separable = Design(separable=True, width=REGULAR.width, depth=REGULAR.depth)
    many, few = num_params(REGULAR), num_params(separable)
    return {
        "regular": REGULAR,
        "separable, drop-in": separable,
        "separable, wider": as_wide(separable, many),
        "separable, deeper": as_deep(separable, many),
        "regular, narrower": as_wide(REGULAR, few),
    }


def main(
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path("runs/cost"),
    seeds: Annotated[int, typer.Option(min=2, help="How often each network is trained.")] = SEEDS,
    epochs: Annotated[int, typer.Option(help="How often it sees every picture.")] = EPOCHS,
    num_train: Annotated[int, typer.Option(help="Pictures to train on.")] = 60_000,
) -> None:
    """Train every network with every seed, and write it all down."""
    output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    train, test = read(train=True, most=num_train), read(train=False)
    example = train[0][:1]
    trained: dict[str, list[nn.Module]] = {name: [] for name in designs()}
    accuracies: dict[str, list[float]] = {name: [] for name in designs()}
    todo = [(name, design, seed) for seed in range(seeds) for name, design in designs().items()]
    for name, design, seed in track(todo, "training"):
        torch.manual_seed(seed)
        # Trains twice as fast on a CPU with the channels last.
        network = build(design).to(memory_format=torch.channels_last)
        train_(network, *train, epochs)
        trained[name].append(network)
        accuracies[name].append(accuracy(network, *test))

    timed = {name: networks[0] for name, networks in trained.items()}
    decomposed = {}
    for rank in track(RANKS, "decomposing"):
        name = f"PW+DW, T={rank}"
        decomposed[name], timed[name] = decompose_all(trained["regular"], rank, train[0], test)
    latency = time_side_by_side(
        timed, example, {"eager": Eager()}, batch_sizes=(TIMED_BATCH,), num_rounds=TIMED_ROUNDS
    )
    record = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seeds": list(range(seeds)),
        "epochs": epochs,
        "num_train": len(train[0]),
        "networks": {
            name: {**asdict(design), **costs(timed[name], example), "accuracies": accuracies[name]}
            for name, design in designs().items()
        },
        "decomposed": decomposed,
        "latency": latency.to_dict(),
        "seconds": time.perf_counter() - start,
    }
    keep(record, output / "results.json")
    draw(record, output / "accuracy.png")
    publish(summarize(record), output)


def read(*, train: bool, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, 28, 28)``, their grey values spread about 0, and their labels ``(N,)``."""
    images, labels = fashion_mnist(train=train)
    return (images[:most] - 0.29) / 0.35, labels[:most]


def decompose_all(
    networks: list[nn.Module], rank: int, images: Tensor, test: tuple[Tensor, Tensor]
) -> tuple[dict[str, Any], nn.Module]:
    """Decompose networks of one design, without training.

    Args:
        networks: trained, one a seed.
        rank: terms a layer.
        images: unlabelled ones, of which the first few are used to repair.
        test: images and labels.

    Returns:
        Costs and accuracies, as truncated and repaired; and the first network, decomposed.
    """
    example = images[:1]
    truncated, repaired = [], []
    for network in networks:
        plan = decompose.plan(network, example, method="pw_dw", rank=rank)
        truncated.append(decompose.apply(plan, network))
        repaired.append(decompose.apply(plan, network, calibrate=images[:NUM_CALIBRATE]))
    figures = {
        **costs(truncated[0], example),
        "truncated": [accuracy(network, *test) for network in truncated],
        "repaired": [accuracy(network, *test) for network in repaired],
    }
    return figures, truncated[0]


if __name__ == "__main__":
    typer.run(main)
