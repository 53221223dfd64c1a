"""Quantised models give nearly what the float ones give, and say what they lose."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose.algebra import Chain, Conv, Expression, Sum
from decompose.algebra.balancing import scaled_inputs, scaled_outputs
from decompose.inference.benchmark import time_side_by_side
from decompose.inference.engines import get_engine
from decompose.inference.quantization import preparation
from decompose.inference.quantization.post_training import Quantized, quantize
from decompose.layers.discovery import find_decomposed
from decompose.layers.forward import outputs
from decompose.utils.errors import DecomposeError


def small_network() -> nn.Module:
    """Two convolutions, a normalisation and a classifier; the second one decomposed."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean, norm.running_var = torch.randn(8), torch.rand(8) + 0.5
    plan = decompose.plan(model, torch.zeros(1, 3, 16, 16), rank={"3": 2})
    return decompose.apply(plan, model)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def quantized(images: Tensor) -> Quantized:
    return quantize(small_network(), images)


def relative_error(content: bytes, model: nn.Module, images: Tensor) -> float:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    wanted = outputs(model, images).numpy()
    return float(np.square(given - wanted).sum() / np.square(wanted).sum())


def test_it_gives_nearly_what_the_float_model_gives(quantized: Quantized, images: Tensor) -> None:
    assert relative_error(quantized.files[".onnx"], small_network(), images) < 0.005
    assert quantized.error < 0.005


def test_factors_are_equalised_only_where_held_out_images_gain(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_network()

    def spoil_(model: nn.Module, _: Sequence[Tensor]) -> None:
        """Scale the channels between factors by powers of ten, exactly undone behind them."""
        for layer in find_decomposed(model).values():
            layer.assign(spoilt(layer.expression))

    monkeypatch.setattr(preparation, "equalize_", spoil_)
    spoilt_alone = quantize(model, images)
    assert "factors" not in spoilt_alone.repairs
    # What was tried and not taken leaves no trace.
    monkeypatch.setattr(preparation, "equalize_", lambda model, images: None)
    assert spoilt_alone.error == quantize(model, images).error


def spoilt(expression: Expression) -> Expression:
    """The same expression with very uneven channels between its factors."""
    if isinstance(expression, Sum):
        return Sum(*map(spoilt, expression.parts))
    assert isinstance(expression, Chain)
    first, last = expression.parts
    assert isinstance(first, Conv)
    scale = 10.0 ** (torch.arange(first.out_channels) % 5)
    return Chain(scaled_outputs(first, scale), scaled_inputs(last, 1 / scale))


def test_every_weight_is_in_int8_per_channel(quantized: Quantized) -> None:
    proto = onnx.load_from_string(quantized.files[".onnx"])
    kinds = {t.name: t.data_type for t in proto.graph.initializer}
    sizes = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    made_by = {node.output[0]: node for node in proto.graph.node}
    convs = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(convs) == 6
    for node in convs:
        dequantised = made_by[node.input[1]]
        assert dequantised.op_type == "DequantizeLinear"
        assert kinds[dequantised.input[0]] == onnx.TensorProto.INT8
        assert sizes[dequantised.input[1]] == (sizes[dequantised.input[0]][0],)
    assert not any(node.op_type == "BatchNormalization" for node in proto.graph.node)


def test_the_file_is_timed_and_run_as_other_models_are(
    quantized: Quantized, images: Tensor, tmp_path: Path
) -> None:
    model, path = small_network(), tmp_path / "small.onnx"
    quantized.save(path)
    onnx.checker.check_model(path, full_check=True)
    loaded = decompose.load(path)
    wanted = outputs(model, images)
    error = (loaded(images) - wanted).square().sum() / wanted.square().sum()
    assert error < 0.005
    timed = time_side_by_side(
        {"float": model, "INT8": loaded},
        images[:1],
        {"onnxruntime": get_engine("onnxruntime")},
        batch_sizes=(1, 2),
        num_rounds=1,
    )
    assert all(ratio.speed_up > 0 for ratio in timed.ratios())
    assert len(timed.table().rows) == 4


def test_a_bound_on_the_error_keeps_the_worst_layers_in_float(images: Tensor) -> None:
    model = small_network()
    whole = quantize(model, images)
    some = quantize(model, images, max_error=whole.error / 2)
    assert some.error <= whole.error / 2
    kept = [layer for layer in some.layers if layer.in_float]
    assert 0 < len(kept) < len(some.layers)
    least = min(layer.error for layer in kept)
    assert all(layer.error <= least for layer in some.layers if not layer.in_float)
    assert kept[0].name in {row[0] for row in some.table().rows}


def test_an_error_that_float_alone_has_is_refused(images: Tensor) -> None:
    with pytest.raises(DecomposeError, match="leaves no layer in INT8"):
        quantize(nn.Conv2d(3, 4, 3), images[:4], max_error=1e-12)


def test_the_model_stays_as_it_was(images: Tensor) -> None:
    model = small_network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = quantize(model, images[:4], keep_float=1)
    assert [layer.in_float for layer in made.layers].count(True) == 1
    assert [layer.name for layer in made.layers] == ["0", "3", "7"]
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_file_is_written_whole(quantized: Quantized, tmp_path: Path) -> None:
    assert quantized.save(tmp_path / "small.onnx") == [tmp_path / "small.onnx"]
    assert (tmp_path / "small.onnx").read_bytes() == quantized.files[".onnx"]
    with pytest.raises(DecomposeError, match=r"are \.onnx files"):
        quantized.save(tmp_path / "small.xml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "eager"}, "there are: onnxruntime, openvino"),
        ({"keep_float": -1}, "0 or more"),
        ({"max_error": 0.0}, "above 0"),
        ({"weight_bits": 4}, "7 or 8"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str, images: Tensor) -> None:
    with pytest.raises(DecomposeError, match=message):
        quantize(small_network(), images[:4], **options)


def test_one_image_is_too_few(images: Tensor) -> None:
    with pytest.raises(DecomposeError, match="two images"):
        quantize(small_network(), images[:1])


def test_both_files_of_a_model_appear_or_neither(tmp_path: Path) -> None:
    files = {".bin": b"weights", ".xml": b"graph"}
    made = Quantized("openvino", files, 0.0, 8, (), ())
    place = tmp_path / "small.xml"
    place.symlink_to("/dev/full")
    with pytest.raises(DecomposeError, match=r"small\.xml: cannot be written: No space left"):
        made.save(place)
    assert list(tmp_path.iterdir()) == [place]
    place.unlink()
    assert made.save(place) == [tmp_path / "small.bin", place]


def test_openvino_gives_nearly_what_the_float_model_gives(images: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    import openvino

    model = small_network()
    made = quantize(model, images, engine="openvino", keep_float=1)
    assert made.error < 0.005
    assert {path.name for path in made.save(tmp_path / "small.xml")} == {"small.xml", "small.bin"}
    compiled = openvino.Core().compile_model(tmp_path / "small.xml", "CPU")
    given = next(iter(compiled([images.numpy()]).values()))
    wanted = outputs(model, images).numpy()
    assert np.square(given - wanted).sum() < 0.005 * np.square(wanted).sum()
    kinds = {
        op.get_output_element_type(0).get_type_name()
        for op in openvino.Core().read_model(tmp_path / "small.xml").get_ops()
        if op.get_type_name() == "Constant"
    }
    assert "i8" in kinds
