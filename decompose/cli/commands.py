"""The commands: each reads its input, calls one function of the library, and shows the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from decompose.cli.common_options import with_common_options
from decompose.cli.comparison import compare_models
from decompose.cli.compression import compress_model
from decompose.cli.evaluation import evaluate_models
from decompose.cli.finetuning import finetune_model
from decompose.cli.inputs import blank_input, named_device, parse_counts, parse_forms, to_device
from decompose.cli.loading import load_all, load_model
from decompose.cli.options import SOURCES, Arch, Device, Fix, InputSize, Markdown, Record
from decompose.cli.outputs import (
    print_files,
    print_line,
    print_record,
    print_table,
    write_record,
    write_table,
)
from decompose.cli.publishing import push_model
from decompose.cli.quantization import quantize_model
from decompose.cli.report import report_models
from decompose.cli.sweep import sweep_budgets
from decompose.data.synthetic import synthetic_inputs
from decompose.evaluation.inspection import inspect_layers
from decompose.evaluation.plots import plot_spectra, plot_speed_up
from decompose.inference.benchmark import time_side_by_side
from decompose.inference.engines import DEFAULT_ENGINE, ENGINES, get_engine
from decompose.inference.tuning import tune
from decompose.layers.discovery import find_decomposed
from decompose.layers.execution_forms import FORMS
from decompose.methods import DEFAULT_METHOD, get_method
from decompose.models import serialization
from decompose.models.conversion import set_forms_
from decompose.models.export import export, require_exported_name
from decompose.utils.environment import VERSION
from decompose.utils.errors import DecomposeError
from decompose.utils.files import require_writable, writing_together

app = typer.Typer(
    help="Rewrite pretrained convolutional models as smaller ones, without training.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command, with the options that every command has."""
    return lambda function: app.command(name)(with_common_options(function))


command("compress")(compress_model)
command("compare")(compare_models)
command("finetune")(finetune_model)
command("evaluate")(evaluate_models)
command("push")(push_model)
command("quantize")(quantize_model)
command("report")(report_models)
command("sweep")(sweep_budgets)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"decompose {VERSION}")
        raise typer.Exit


@app.callback()
def decompose_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Rewrite pretrained convolutional models as smaller ones, without training."""


@command("inspect")
def inspect_model(
    model: Annotated[str, typer.Argument(help=SOURCES)],
    arch: Arch = None,
    method: Annotated[
        str, typer.Option(help="Method whose terms the table shows.")
    ] = DEFAULT_METHOD,
    pca: Annotated[
        bool,
        typer.Option(
            "--pca", help="Show the variance that principal components of the kernels explain."
        ),
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the spectra to this image.")] = None,
    input_size: InputSize = None,
    device: Device = "auto",
    fix: Fix = None,
    output: Record = None,
    table: Markdown = None,
) -> None:
    """Show a model's layers: plan, MACs, parameters and the energy of their first terms."""
    require_writable(plot, output, table, inputs=[model])
    get_method(method)
    loaded = to_device(load_model(model, arch, fix), device)
    inspection = inspect_layers(loaded, blank_input(loaded, input_size))
    record = {"model": model, **inspection.to_dict()}
    with writing_together():
        if plot is not None:
            plot_spectra(inspection, plot)
        write_record(output, record)
        write_table(table, inspection.table(method, centred=pca))
    print_record(record)
    print_table(inspection.table(method, centred=pca))
    print_files(plot, output, table)


@command("benchmark")
def benchmark_models(
    original: Annotated[str, typer.Argument(help=SOURCES)],
    small: Annotated[list[str], typer.Argument(help="Models to time beside it.")],
    arch: Arch = None,
    engines: Annotated[
        str, typer.Option(help=f"Engines, separated by commas, of: {', '.join(ENGINES)}.")
    ] = "eager",
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU.")] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Number of rounds; each model runs once a round.")
    ] = 7,
    channels_last: Annotated[
        bool, typer.Option("--channels-last/--contiguous", help="Memory format in torch.")
    ] = True,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time every decomposed layer as well.")
    ] = False,
    tuned: Annotated[
        bool,
        typer.Option("--tune", help="Choose the fastest forms of layers in each engine first."),
    ] = False,
    input_size: InputSize = None,
    device: Device = "auto",
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option(help="Data type of weights and inputs."),
    ] = "float32",
    plot: Annotated[
        Path | None, typer.Option(help="Also draw speed-up against MAC ratio to this image.")
    ] = None,
    output: Record = None,
    table: Markdown = None,
) -> None:
    """Time models in turns, in one process, against the first."""
    require_writable(plot, output, table, inputs=[original, *small])
    chosen = {name: get_engine(name, channels_last=channels_last) for name in engines.split(",")}
    sizes = parse_counts(batch, "batch")
    where = named_device(device)
    models = load_all([original, *small], arch)
    if len(models) < 1 + len(small):
        raise DecomposeError("the same model is named twice; its times would say nothing")
    kind = getattr(torch, dtype)
    models = {name: model.to(where, kind) for name, model in models.items()}
    timed = time_side_by_side(
        models,
        blank_input(models[original], input_size),
        chosen,
        batch_sizes=sizes,
        num_rounds=rounds,
        num_threads=threads,
        layers=layers,
        tuned=tuned,
    )
    with writing_together():
        write_record(output, timed.to_dict())
        if plot is not None:
            plot_speed_up(timed, plot)
        write_table(table, timed.table())
    print_record(timed.to_dict())
    print_table(timed.table())
    if layers:
        print_table(timed.layer_table())
    print_files(plot, output, table)


@command("tune")
def tune_model(
    model: Annotated[str, typer.Argument(help="A model that compress wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors to write.")],
    arch: Arch = None,
    engine: Annotated[
        str, typer.Option(help=f"Engine to be fast in, one of: {', '.join(ENGINES)}.")
    ] = DEFAULT_ENGINE,
    batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU.")] = None,
    form: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Set this form without timing, of: {', '.join(FORMS)}; for some layers "
            "PATTERN=FORM; repeatable."
        ),
    ] = None,
    input_size: InputSize = None,
    device: Device = "auto",
    table: Markdown = None,
) -> None:
    """Choose the fastest form of every decomposed layer by timing them; outputs stay the same."""
    require_writable(output, table, inputs=[model])
    serialization.require_saved_name(output)
    loaded = serialization.load(model, arch).to(named_device(device))
    times = None
    if form:
        if table is not None:
            raise DecomposeError("--table holds what is measured, and --form measures nothing")
        set_forms_(loaded, parse_forms(form, loaded))
    else:
        blank = blank_input(loaded, input_size)
        example = blank.expand(batch, *blank.shape[1:]).contiguous()
        tuned = tune(loaded, example, engine=engine, threads=threads)
        loaded, times = tuned.network, tuned.table()
        print_table(times)
    with writing_together():
        serialization.save(loaded, output)
        if times is not None:
            write_table(table, times)
    forms_taken = {name: layer.form for name, layer in find_decomposed(loaded).items()}
    print_record({"model": model, "output": str(output), "forms": forms_taken})
    print_files(output, table)


@command("export")
def export_model(
    model: Annotated[str, typer.Argument(help=SOURCES)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The .onnx, .pt2 or .xml to write.")
    ],
    arch: Arch = None,
    input_size: InputSize = None,
    device: Device = "auto",
) -> None:
    """Export a model to ONNX, torch's .pt2 or OpenVINO's .xml, checked against torch; any batch."""
    require_writable(output, inputs=[model])
    require_exported_name(output)
    loaded = serialization.load(model, arch).to(named_device(device))
    blank = blank_input(loaded, input_size)
    images = synthetic_inputs(blank, loaded, num=2)
    deviation = export(loaded, images, output)
    print_record({"model": model, "output": str(output), "largest_deviation": deviation})
    print_line(f"Its outputs equal torch's to {deviation:.1e} of the largest output")
    print_files(output)
