"""Finetuning wins back what compression lost: four figures that it must reach.

(1) A VGG-style network trained here on Fashion-MNIST, planned for a quarter and an eighth of its MACs:
as truncated, repaired and reconstructed blockwise without labels, finetuned on labels and with the
original as teacher. (2) VGG16's real convolutions with a quarter of their MACs, repaired on photographs
alone. (3) The same architecture trained as long from random weights. (4) What a step of training costs.

    python -m experiments.finetune.run --output runs/finetune            # all of it
    python -m experiments.finetune.run --small --output runs/small       # few images, to see that it runs

About an hour on two idle cores, by estimate. Expect the network with a quarter of the MACs to come
within 0.3 points of the original's accuracy, and the one with an eighth within one. Checkpoints and
networks are kept below the output folder, so that an interrupted run goes on where it was.
``table.py`` renders the figures.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

import decompose
from decompose.inference.allocator import keep_freed_memory
from decompose.models.architectures import OFFLINE_VGG16
from decompose.utils.environment import environment
from decompose.utils.progress import track
from experiments.common.records import keep, publish, take_up
from experiments.finetune import photographs_only, throughput
from experiments.finetune.config import FULL, SMALL, Setting
from experiments.finetune.networks import NUM_CLASSES
from experiments.finetune.plot import draw
from experiments.finetune.study import Study
from experiments.finetune.table import VGG16, tables


def main(
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path(
        "runs/finetune"
    ),
    small: Annotated[bool, typer.Option(help="Few images, to see that it runs.")] = False,
) -> None:
    """Measure everything, and write down what is measured by then."""
    keep_freed_memory()
    setting = SMALL if small else FULL
    record = take_up(output / "results.json", asdict(setting))
    study = Study(setting, output / "networks")
    record |= {"environment": environment(), **study.before(), "seeds": {}}
    for seed in track(setting.seeds, "seeds"):
        record["seeds"][f"{seed}"] = study.finetuned(seed)
        keep(record, output / "results.json")
    record["throughput"] = {
        "the VGG-style network": _steps(study, setting),
        VGG16: _vgg16_steps(setting),
    }
    keep(record, output / "results.json")
    record["photographs"] = photographs_only.measure(setting)
    keep(record, output / "results.json")
    draw(record, output / "accuracy.png")
    publish(tables(record), output)


def _steps(study: Study, setting: Setting) -> dict[str, Any]:
    names = {1 / 4: "a quarter of the MACs", 1 / 8: "an eighth of the MACs"}
    small = {names[share]: made["blockwise"] for share, made in study.compressed.items()}
    images = torch.randn(setting.original.batch_size, *study.example.shape[1:])
    return throughput.measure(study.original, small, images, setting.num_rounds)


def _vgg16_steps(setting: Setting) -> dict[str, Any]:
    layers = OrderedDict(
        features=decompose.load(OFFLINE_VGG16),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classify=nn.Linear(512, NUM_CLASSES),
    )
    network, images = nn.Sequential(layers), photographs_only.halved()[:8]
    plan = decompose.plan(network, images[:1], method="spatial", ratio=4)
    small = {"spatial decomposition": decompose.apply(plan, network)}
    return throughput.measure(network, small, images, setting.num_rounds)


if __name__ == "__main__":
    typer.run(main)
