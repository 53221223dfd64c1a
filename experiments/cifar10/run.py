"""ResNet-20 and ResNet-56 on CIFAR-10 under a budget of MACs: accuracy kept, beside peers.

Each network is compressed to several shares of its MACs without images, on 64 and on 512 unlabelled
training images, and finetuned by distillation; beside it stand two peers under the same budgets
(``peers``). Accuracy on the 10,000 test images, changes with paired 95 % intervals.

    python -m experiments.cifar10.run --data DATA --networks NETWORKS --output runs/cifar10
    python -m experiments.cifar10.run ... --depth 20 --depth 56 --share 0.75 --share 0.5 --way svd64

``data`` and ``networks`` say what the folders hold. By default ResNet-20 at half the MACs without images
and on 64, five minutes on one core. Expect it to lose 1.4 points without images and 1.0 on 64, of 91.73 %.
Every result leaves a record below the output folder; a run takes up those that are there. ``table.py``
renders the figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from decompose.training.recipe import OPTIMISERS, PRECISIONS
from decompose.utils.environment import environment
from experiments.cifar10.data import load_images
from experiments.cifar10.networks import load_model
from experiments.cifar10.plot import draw
from experiments.cifar10.study import Study, distillation
from experiments.cifar10.table import tables
from experiments.cifar10.ways import HALF, WAYS
from experiments.common.records import keep, publish, take_up
from experiments.common.shares_of_macs import measured


def main(
    data: Annotated[Path, typer.Option(help="Folder of CIFAR-10.")],
    networks: Annotated[Path, typer.Option(help="Folder of the published weights.")],
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path(
        "runs/cifar10"
    ),
    depth: Annotated[list[int], typer.Option(help="Layers of the networks.")] = [20],  # noqa: B006
    share: Annotated[list[float], typer.Option(help="Shares of the MACs.")] = [0.5],  # noqa: B006
    way: Annotated[list[str], typer.Option(help=f"Of: {', '.join(WAYS)}.")] = [  # noqa: B006
        "free",
        "images64",
    ],
    epochs: Annotated[int, typer.Option(min=1, help="Of finetuning.")] = 10,
    optimiser: Annotated[
        str, typer.Option(help=f"Of finetuning, one of: {', '.join(OPTIMISERS)}.")
    ] = "sgd",
    learning_rate: Annotated[float, typer.Option(help="Highest, of finetuning.")] = 0.05,
    batch_size: Annotated[int, typer.Option(min=1, help="Of finetuning.")] = 256,
    weight_decay: Annotated[float, typer.Option(min=0, help="Of finetuning.")] = 1e-4,
    labels: Annotated[float, typer.Option(min=0, max=1, help="Their weight in finetuning.")] = 0.1,
    temperature: Annotated[float, typer.Option(help="Of distillation.")] = 2.0,
    mixup: Annotated[float, typer.Option(min=0, help="Alpha of mixup in finetuning.")] = 0.0,
    freeze_batchnorm: Annotated[
        bool, typer.Option("--freeze-batchnorm", help="Keep BatchNorm's statistics.")
    ] = False,
    compose_factors: Annotated[
        bool, typer.Option("--compose-factors", help="Finetune through dense kernels.")
    ] = False,
    precision: Annotated[
        str, typer.Option(help=f"Of finetuning, one of: {', '.join(PRECISIONS)}.")
    ] = "no",
    seed: Annotated[
        int, typer.Option(help="Of the draw of unlabelled images; give each an output of its own.")
    ] = 0,
    max_test: Annotated[int, typer.Option(min=1, help="Test images, at most.")] = 10_000,
) -> None:
    """Measure what is not measured yet, and render all that is."""
    if unknown := [name for name in way if name not in WAYS]:
        raise typer.BadParameter(f"there is no way {unknown[0]}; there are: {', '.join(WAYS)}")
    if "again" in way and max(share) >= HALF:
        raise typer.BadParameter(f"again goes on from {HALF:.0%} of the MACs: give smaller shares")
    take_up(output / "setting.json", {"seed": seed, "max_test": max_test})
    recipe = distillation(
        labels,
        epochs=epochs,
        optimiser=optimiser,
        learning_rate=learning_rate,
        batch_size=batch_size,
        weight_decay=weight_decay,
        temperature=temperature,
        mixup=mixup,
        freeze_batchnorm=freeze_batchnorm,
        compose_factors=compose_factors,
        precision=precision,
    )
    train, test = (load_images(data, train=is_train) for is_train in (True, False))
    test = test.first(max_test)
    for layers in depth:
        folder = output / f"resnet{layers}"
        folder.mkdir(parents=True, exist_ok=True)
        study = Study(load_model(networks, layers), train, test, folder / "hits.npy", seed)
        keep(study.original(), folder / "original.json")
        for name in way:
            for fraction in share:
                path = folder / f"{name}_{fraction:g}.json"
                if not path.exists():
                    keep(study.measure(name, fraction, recipe, folder / "checkpoints"), path)
    record = {
        "environment": environment(torch.device("cpu")),
        "networks": {path.name: measured(path, WAYS) for path in sorted(output.glob("resnet*"))},
    }
    keep(record, output / "results.json")
    draw(record, output / "accuracy_against_macs.png")
    publish(tables(record), output)


if __name__ == "__main__":
    typer.run(main)
