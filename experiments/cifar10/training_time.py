"""What a step of finetuning a ResNet of CIFAR-10 takes: by factors or composed, in two precisions.

Steps of distillation take turns in one process, on images of noise; the batch and the loss are those of the
finetuned rows.

    python -m experiments.cifar10.training_time --networks NETWORKS

Four minutes on one core. Expect composed steps in bfloat16 to take half the time on a CPU with AMX.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

import decompose
from decompose.inference.timing import time_in_turns
from decompose.training.recipe import Recipe
from decompose.utils.batches import in_channels_last
from decompose.utils.progress import track
from decompose.utils.tables import Table
from experiments.cifar10.data import SIZE
from experiments.cifar10.networks import load_model
from experiments.finetune.throughput import training_step


def main(
    networks: Annotated[Path, typer.Option(help="Folder of the published weights.")],
    depth: Annotated[int, typer.Option(help="Layers of the network.")] = 56,
    share: Annotated[float, typer.Option(help="Share of the MACs.")] = 0.5,
    batch_size: Annotated[int, typer.Option(min=2, help="Images of a step.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 10,
) -> None:
    """Time steps and print their ratios."""
    torch.manual_seed(0)
    original = load_model(networks, depth).to(memory_format=torch.channels_last)
    plan = decompose.plan(original, torch.zeros(1, 3, SIZE, SIZE), macs=share)
    small = decompose.apply(plan, original).to(memory_format=torch.channels_last)
    images = in_channels_last(torch.randn(batch_size, 3, SIZE, SIZE))
    calls = {
        f"{factors}, {precision}": training_step(
            small,
            original,
            images,
            Recipe(
                labels=0,
                outputs=1,
                temperature=20,
                weight_decay=0,
                compose_factors=factors == "composed",
                precision="no" if precision == "float32" else "bf16",
            ),
        )
        for factors in ("by factors", "composed")
        for precision in ("float32", "bfloat16")
    }
    timed = time_in_turns(
        calls, track(range(rounds), "timing steps"), torch.get_num_threads(), calls_a_round=1
    )
    whole = timed["by factors, float32"].median_ms
    rows = [
        (name, f"{found.median_ms:.0f} ± {found.spread_ms:.0f}", f"{found.median_ms / whole:.2f}")
        for name, found in timed.items()
    ]
    title = f"A step of distilling ResNet-{depth} at {share:.0%} of its MACs, {batch_size} images"
    print(Table(title, ["step", "ms", "of the first"], rows))


if __name__ == "__main__":
    typer.run(main)
