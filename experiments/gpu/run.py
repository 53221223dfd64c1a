"""A GPU in eight minutes: agreement with the CPU, time to compress, and time to run.

Half the MACs of VGG16, ResNet-50 and ConvNeXt-T, planned and repaired on the GPU; each beside its
original in float32, float16 and bfloat16, in eager torch, as a CUDA graph, compiled, and, uniformly
decoupled, in the fused Triton kernel, at batches of 1, 8 and 32. Weights are random, images
synthetic: nothing here speaks of accuracy.

    python -m experiments.gpu.run --output runs/gpu
    python -m experiments.gpu.run --small --device cpu --output runs/gpu-small    # does it run?

Needs the checkout, PyTorch 2.11 or newer and one GPU. It ends after ``--minutes``: the most telling
figures come first, and what there was no time for is left out of the tables. Called again with the same
output on the same machine, it measures what is still missing.
"""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import torch
import typer
from torch import Tensor, nn

from decompose.inference.benchmark import time_side_by_side
from decompose.inference.engines import get_engine
from decompose.utils.environment import environment
from decompose.utils.errors import first_line
from experiments.common.records import keep, publish, take_up
from experiments.gpu.agreement import agreement
from experiments.gpu.compression import compress
from experiments.gpu.models import (
    FULL,
    MIXTURE,
    ORIGINAL,
    SMALL,
    UNIFORM,
    Setting,
    build,
    uniform,
)
from experiments.gpu.table import summarize

Arguments = ParamSpec("Arguments")


def main(
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path("runs/gpu"),
    device: Annotated[str, typer.Option(help="Where to measure.")] = "cuda",
    minutes: Annotated[float, typer.Option(help="Start nothing new after this time.")] = 7.0,
    small: Annotated[bool, typer.Option(help="One tiny model, to see that it runs.")] = False,
) -> None:
    """Measure in the order of importance, and write down after each part."""
    started = time.monotonic()
    deadline = started + 60 * minutes
    compress_until = started + 30 * minutes  # the other half is for latencies
    where, setting = torch.device(device), SMALL if small else FULL
    results = output / "results.json"
    record = take_up(results, asdict(setting) | {"environment": environment(where)})
    record |= {"device": where.type, "compressed": {}, "latencies": []} | record
    if "agreement" not in record:
        print("comparing with the CPU", flush=True)
        record["agreement"] = _attempt(agreement, where)
        keep(record, results)
    models: dict[str, dict[str, nn.Module]] = {}
    for title, architecture in setting.models.items():
        print(f"compressing {title}", flush=True)
        model, example = build(architecture, setting.size, where)
        models[title] = {ORIGINAL: model}
        if time.monotonic() < compress_until:
            figures = _attempt(_compressed, models[title], example, setting.num_images)
            record["compressed"].setdefault(title, figures)
            keep(record, results)
        if (decoupled := uniform(model, example)) is not None:
            models[title][UNIFORM] = decoupled
    example = torch.randn(1, 3, setting.size, setting.size, device=where)
    known = {_key(found) for found in record["latencies"]}
    for latencies in _latencies(models, example, setting, known, deadline):
        record["latencies"].append(latencies)
        keep(record, results)
    publish(summarize(record), output)


def _attempt(
    work: Callable[Arguments, dict[str, Any]], *arguments: Arguments.args, **named: Arguments.kwargs
) -> dict[str, Any]:
    """What some work finds; where it fails, in what words, so that the rest is measured all the same."""
    try:
        return work(*arguments, **named)
    except Exception as error:  # noqa: BLE001 (engines and devices raise errors of their own)
        traceback.print_exc()
        return {"failed": first_line(error)}


def _compressed(variants: dict[str, nn.Module], example: Tensor, num: int) -> dict[str, Any]:
    """Compress a model, add the smaller one to its variants, and give the figures."""
    variants[MIXTURE], figures = compress(variants[ORIGINAL], example, num)
    return figures


def _latencies(
    models: dict[str, dict[str, nn.Module]],
    example: Tensor,
    setting: Setting,
    known: Container[tuple[str, str, str]],
    deadline: float,
) -> Iterator[dict[str, Any]]:
    """Time every model in every engine and dtype, but for known ones, until there is no time left."""
    for engine, dtype, (title, variants) in product(
        setting.engines, setting.dtypes, models.items()
    ):
        if engine == "triton":
            variants = {name: m for name, m in variants.items() if name != MIXTURE}
        found: dict[str, Any] = {"model": title, "engine": engine, "dtype": dtype}
        if _key(found) in known or time.monotonic() > deadline or len(variants) < 2:
            continue
        kind = getattr(torch, dtype)
        print(f"timing {title} in {engine}, {dtype}", flush=True)
        there = {name: model.to(kind) for name, model in variants.items()}
        yield found | _attempt(_timed, there, example.to(kind), engine, setting)
        for model in there.values():
            model.float()


def _key(found: Mapping[str, Any]) -> tuple[str, str, str]:
    return found["model"], found["engine"], found["dtype"]


def _timed(
    variants: Mapping[str, nn.Module], example: Tensor, engine: str, setting: Setting
) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timed = time_side_by_side(
            variants,
            example,
            {engine: get_engine(engine)},
            batch_sizes=setting.batch_sizes,
            num_rounds=setting.num_rounds,
        )
    return {"timed": timed.to_dict()}


if __name__ == "__main__":
    typer.run(main)
