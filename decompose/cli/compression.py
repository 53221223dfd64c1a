"""``decompose compress``: write a smaller model to a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor, nn

from decompose.cli.accuracy_budget import DropBudget, trials_table
from decompose.cli.calibration import Calibration, repair_and_report
from decompose.cli.common_options import with_panels
from decompose.cli.inputs import (
    blank_input,
    keep_preprocessing,
    parse_ranks,
    preprocessing_options,
    to_device,
)
from decompose.cli.loading import load_model
from decompose.cli.options import (
    SOURCES,
    Arch,
    Bgr,
    Calibrate,
    Device,
    Fix,
    InputSize,
    Markdown,
    MaxImages,
    Mean,
    Scale,
    Skip,
    Std,
)
from decompose.cli.outputs import (
    print_dense,
    print_files,
    print_latency,
    print_record,
    print_table,
    write_table,
)
from decompose.compression.application import apply
from decompose.compression.checkpoints import CompressionCheckpoints, key_of
from decompose.compression.effort import DEFAULT_EFFORT, EFFORTS, effort_of
from decompose.compression.search.candidates import DEFAULT_METHODS
from decompose.compression.search.planning import plan
from decompose.data.matched_inputs import matched_inputs
from decompose.data.synthetic import are_cheap, num_to_repair_on
from decompose.evaluation.accuracy_budget import WithinDrop
from decompose.evaluation.comparison import compare_weights
from decompose.inference.engines import ENGINES
from decompose.layers.batchnorm import fold_batchnorm
from decompose.methods import DEFAULT_METHOD, METHODS
from decompose.models import serialization
from decompose.models.plans import Plan
from decompose.utils.batches import tensors
from decompose.utils.errors import DecomposeError
from decompose.utils.files import require_writable, writing_together

_BUDGETS = {"macs", "params", "latency"}


@with_panels(
    {
        "What to keep": "macs params latency max_drop engine batch threads int8 rank energy ratio multiple skip",
        "What to use": "methods method plan_file statistics fold repair effort arch device",
        "Images": "data calibrate max_images input_size fix scale mean std bgr",
        "Output": "output resume save_plan save_statistics table",
    }
)
def compress_model(
    source: Annotated[str, typer.Argument(help=SOURCES)],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The .safetensors to write; of an ONNX model, the .onnx."
        ),
    ],
    arch: Arch = None,
    macs: Annotated[
        float | None,
        typer.Option(help="Share of MACs to keep, in (0, 1], by a mixture of methods."),
    ] = None,
    params: Annotated[
        float | None, typer.Option(help="Share of parameters to keep, in (0, 1]; instead of MACs.")
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(help="Share of time to keep, in (0, 1], in an engine; instead of MACs."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Most points of accuracy to lose on --data: finds the smallest model within "
            "them, or with --engine the fastest."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images to measure --max-drop on: class folders, shards, or a folder without "
            "labels, where the original's classes serve as labels."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help=f"Engine of --latency and --max-drop: {', '.join(ENGINES)}. Default: eager."
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Batch size of --latency. Default: 1.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of --latency.")] = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Measure --latency with both models in INT8, as by quantize."),
    ] = False,
    methods: Annotated[
        str | None,
        typer.Option(help=f"Methods of the mixture. Default: {','.join(DEFAULT_METHODS)}."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"One method for all layers: {', '.join(METHODS)}; or nested ones: "
            f"spatial+pw_dw. Default: {DEFAULT_METHOD}."
        ),
    ] = None,
    rank: Annotated[
        list[str] | None,
        typer.Option(
            help="Rank: N for all layers, or PATTERN=N for some; repeatable, the last match counts."
        ),
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(help="Share of each layer's energy to keep, in (0, 1]; instead of rank."),
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Factor by which each layer's weights become fewer.")
    ] = None,
    multiple: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="8, 16 or 32: numbers of channels between factors in multiples, as kernels like. "
            "Default: any; with --latency the engine's own for ranks that are larger.",
        ),
    ] = None,
    skip: Skip = None,
    calibrate: Calibrate = None,
    max_images: MaxImages = None,
    repair: Annotated[
        bool | None,
        typer.Option(
            "--repair/--no-repair",
            help="Refit each layer's last factors. Default: with --calibrate or a budget; "
            "without images, on synthetic ones.",
        ),
    ] = None,
    effort: Annotated[
        str | None,
        typer.Option(
            help=f"Time to spend on plan and repair: {', '.join(EFFORTS)}. Default: {DEFAULT_EFFORT}."
        ),
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option(help="Plan by statistics that --save-statistics wrote.")
    ] = None,
    save_statistics: Annotated[
        Path | None,
        typer.Option(help="Save the statistics of --calibrate, for plans of other budgets."),
    ] = None,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", help="Follow this plan (JSON) instead of a method and rank."),
    ] = None,
    save_plan: Annotated[
        Path | None, typer.Option(help="Also write the plan to this JSON file, to read and edit.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep each finished phase beside the output until it is written, and go on from "
            "what an interrupted run with --resume has kept.",
        ),
    ] = False,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold-batchnorm", help="First fold each BatchNorm into the layer that it follows."
        ),
    ] = False,
    device: Device = "auto",
    input_size: InputSize = None,
    fix: Fix = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    bgr: Bgr = False,
    table: Markdown = None,
) -> None:
    """Rewrite a model's convolutions as smaller ones, without training."""
    inputs = [source, plan_file, statistics]
    require_writable(output, save_plan, save_statistics, table, inputs=inputs)
    serialization.require_saved_name(output, is_onnx=serialization.is_onnx(source))
    options = {
        "macs": macs,
        "params": params,
        "latency": latency,
        "engine": engine,
        "threads": threads,
        "int8": int8 or None,
        "methods": methods.split(",") if methods else None,
        "method": method,
        "rank": parse_ranks(rank) if rank else None,
        "energy": energy,
        "ratio": ratio,
        "multiple": multiple,
        "skip": skip or None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    calibration = Calibration(calibrate, max_images, statistics, save_statistics)
    planned = any(path is not None for path in (plan_file, statistics, save_statistics))
    drop = DropBudget.of(max_drop, data, given, planned=planned, repaired=repair is not False)
    budgeted = bool(given.keys() & _BUDGETS) or drop is not None
    repairing = budgeted or calibrate is not None if repair is None else repair
    _require_effect(given, plan_file, batch)
    effort = _effort(effort, has_effect=budgeted or repairing)
    if resume and (drop is not None or not (budgeted or repairing)):
        raise DecomposeError("--resume is for the plan and the repair of one budget")
    calibration.require_effect(budgeted=budgeted, repairing=repairing)
    choices = None if plan_file is None else Plan.load(plan_file)
    model = to_device(load_model(source, arch, fix), device)
    example = blank_input(model, input_size)
    look = preprocessing_options(scale, mean, std, is_bgr=bgr)
    keep_preprocessing(model, example, look, required=calibrate is not None)
    if fold:
        model = fold_batchnorm(model, example)
    example = example.expand(batch or 1, *example.shape[1:]).contiguous()
    folder = output.with_name(f"{output.stem}.checkpoints") if resume else None
    made = _compressed(
        model, example, given, choices, drop, calibration, effort, folder, repairing=repairing
    )
    small, choices, within = made.model, made.plan, made.within
    comparison = compare_weights(model, small, example)
    with writing_together():
        if save_plan is not None:
            choices.save(save_plan)
        serialization.save(small, output)
        write_table(table, comparison.table(weights=not repairing))
    if made.checkpoints is not None:
        made.checkpoints.remove()
    record: dict[str, Any] = {"source": source, "output": str(output), "repaired": repairing}
    record |= {} if within is None else {"max_drop": within.to_dict()}
    print_record({**record, **comparison.to_dict(), "plan": json.loads(choices.to_json())})
    print_table(comparison.table(weights=not repairing))
    if within is not None:
        print_table(trials_table(within))
    print_dense(choices)
    print_latency(choices)
    print_files(output, save_plan, save_statistics, table)


@dataclass(frozen=True)
class _Compressed:
    """A plan, the model that it made, the search for ``--max-drop``, and the checkpoints of the run."""

    plan: Plan
    model: nn.Module
    within: WithinDrop | None = None
    checkpoints: CompressionCheckpoints | None = None


def _compressed(
    model: nn.Module,
    example: Tensor,
    given: Mapping[str, Any],
    choices: Plan | None,
    drop: DropBudget | None,
    calibration: Calibration,
    effort: str,
    folder: Path | None,
    *,
    repairing: bool,
) -> _Compressed:
    """Plan, apply and repair, as the options say."""
    images = calibration.images(model)
    if drop is not None:
        within = drop.search(model, example, images, {**given, "effort": effort})
        return _Compressed(within.plan, within.model, within)
    inputs = images
    if images is None and repairing:
        num, steps = num_to_repair_on(example), effort_of(effort).num_matching
        inputs = matched_inputs(example, model, num=num, steps=steps)
    kept = None
    if folder is not None:
        # Inputs that are made follow from the example, on a GPU not to the last bit.
        seen = tensors(example) if images is None else images
        options = {
            **given,
            "effort": effort,
            "repair": repairing,
            "plan": choices and choices.to_json(),
        }
        kept = CompressionCheckpoints.open(folder, key_of(model, seen, options))
    if choices is None:
        calibrate = None
        if given.keys() & _BUDGETS:
            # Large synthetic inputs cost too much to foresee the repair.
            foreseen = inputs if images is not None or are_cheap(example) else None
            scope = {name: given[name] for name in ("methods", "skip") if name in given}
            calibrate = calibration.to_plan_on(
                model, example, foreseen, {**scope, "effort": effort}, kept
            )
        planned = partial(plan, model, example, calibrate=calibrate, effort=effort, **given)
        choices = planned() if kept is None else kept.plan(planned)
    small = apply(choices, model)
    if repairing:
        assert inputs is not None
        repair_and_report(small, model, inputs, effort, kept, synthetic=images is None)
    return _Compressed(choices, small, checkpoints=kept)


def _effort(name: str | None, *, has_effect: bool) -> str:
    """The effort, checked before the work; the default where none is given."""
    if name is None:
        return DEFAULT_EFFORT
    if not has_effect:
        raise DecomposeError("--effort is for a budget and for a repair; there is neither")
    effort_of(name)
    return name


def _require_effect(given: Mapping[str, Any], plan_file: Path | None, batch: int | None) -> None:
    """Check that no option repeats a choice of ``--plan`` or is without effect."""
    if plan_file is not None and given:
        raise DecomposeError("--plan holds all choices; give no budget, method, rank or skip")
    if batch is not None and "latency" not in given:
        raise DecomposeError("--batch is for a latency; give --latency")
