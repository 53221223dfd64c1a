"""``decompose quantize``: quantise a model to INT8, for an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decompose.cli.inputs import (
    blank_input,
    calibration_images,
    keep_preprocessing,
    preprocessing_options,
)
from decompose.cli.loading import load_model
from decompose.cli.options import (
    NUM_IMAGES,
    SOURCES,
    Arch,
    Bgr,
    Fix,
    InputSize,
    Markdown,
    Mean,
    Scale,
    Std,
)
from decompose.cli.outputs import (
    print_files,
    print_line,
    print_record,
    print_table,
    write_table,
)
from decompose.inference.quantization.post_training import (
    DEFAULT_ENGINE,
    Quantized,
    quantize,
    require_suffix,
)
from decompose.inference.quantization.quantizers import QUANTIZERS, get_quantizer_class
from decompose.utils.files import require_writable, writing_together


def quantize_model(
    source: Annotated[str, typer.Argument(help=SOURCES)],
    calibrate: Annotated[
        Path, typer.Option(help="Folder of a few unlabelled images; a quarter is held out.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The .onnx to write; for openvino the .xml, with a .bin beside it.",
        ),
    ],
    engine: Annotated[
        str, typer.Option(help=f"Engine of the INT8 model, one of: {', '.join(QUANTIZERS)}.")
    ] = DEFAULT_ENGINE,
    keep_float: Annotated[
        int,
        typer.Option(
            min=0, help="Number of layers to leave in float: those that lose most in INT8."
        ),
    ] = 0,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Largest relative squared error of the output: leaves layers in float until it "
            "holds."
        ),
    ] = None,
    weight_bits: Annotated[
        int | None,
        typer.Option(
            help="8, or 7 for processors that add products of bytes in 16 bits. Default: as this "
            "processor needs."
        ),
    ] = None,
    max_images: Annotated[int, typer.Option(min=2, help="Most images to take.")] = NUM_IMAGES,
    arch: Arch = None,
    input_size: InputSize = None,
    fix: Fix = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    bgr: Bgr = False,
    table: Markdown = None,
) -> None:
    """Quantise a model to INT8, weights per channel, after its factors are equalised."""
    get_quantizer_class(engine)
    require_suffix(output, engine)
    require_writable(output, table, inputs=[source])
    model = load_model(source, arch, fix)
    look = preprocessing_options(scale, mean, std, is_bgr=bgr)
    keep_preprocessing(model, blank_input(model, input_size), look, required=True)
    made = quantize(
        model,
        calibration_images(calibrate, model, max_images),
        engine=engine,
        keep_float=keep_float,
        max_error=max_error,
        weight_bits=weight_bits,
    )
    with writing_together():
        written = made.save(output)
        write_table(table, made.table())
    record = {"source": source, "engine": made.engine, "files": [str(path) for path in written]}
    print_record({**record, "error": made.error, "weight_bits": made.weight_bits})
    if keep_float or max_error is not None:
        print_table(made.table())
    _print_summary(made)
    print_files(*written, table)


def _print_summary(made: Quantized) -> None:
    in_float = sum(layer.in_float for layer in made.layers)
    print_line(
        f"INT8 for {made.engine}: {len(made.layers) - in_float} of {len(made.layers)} layers; the output "
        f"changes by {made.error:.4f} (relative squared error, held-out images)"
    )
    if made.weight_bits == 7:
        print_line(
            "Weights have 7 bits, so that products of bytes cannot overflow on any processor"
        )
    if made.repairs:
        print_line(f"Repaired: {', '.join(made.repairs)}")
