"""ONNX files are read without a second copy, written whole, and refused where they are damaged."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from decompose.models.onnx.model_file import OnnxModel, array_of, read_model
from decompose.models.onnx.writing import model_bytes, write_model
from decompose.utils.errors import DecomposeError
from tests.models.onnx.cases import make_model, run_onnx, small_cnn


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.onnx"
    onnx.save(small_cnn(), path)
    return path


@pytest.fixture
def external(tmp_path: Path) -> Path:
    path = tmp_path / "external.onnx"
    onnx.save(small_cnn(), path, save_as_external_data=True, location="weights", size_threshold=64)
    return path


def same_weights(a: OnnxModel, b: onnx.ModelProto) -> bool:
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in b.graph.initializer}
    return all(np.array_equal(array_of(v), stored[name]) for name, v in a.weights.items())


def test_large_weights_lie_beside_the_graph_once(plain: Path, external: Path) -> None:
    for path in (plain, external):
        model = read_model(path)
        assert {"block.weight", "up.weight"} <= set(model.weights)
        assert same_weights(model, small_cnn())
        kept = {tensor.name for tensor in model.without_weights().graph.initializer}
        assert not kept & set(model.weights)
    assert isinstance(array_of(read_model(external).weights["up.weight"]).base, np.memmap)


def test_what_is_written_is_what_was_read(plain: Path, external: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16), np.float32)
    for path in (plain, external):
        target = tmp_path / "again.onnx"
        write_model(read_model(path), target)
        onnx.checker.check_model(target, full_check=True)
        np.testing.assert_array_equal(run_onnx(path, x)[0], run_onnx(target, x)[0])
        assert same_weights(read_model(target), small_cnn())
        assert target.with_name("again.onnx.data").exists() == (path == external)
    content = onnx.load_from_string(model_bytes(read_model(plain)))
    first, second = small_cnn(), content
    for model in (first, second):
        model.graph.initializer.sort(key=lambda tensor: tensor.name)
    assert first == second


def test_a_model_stays_whole_until_another_takes_its_place(
    external: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "written"
    folder.mkdir()
    target = folder / "model.onnx"
    write_model(read_model(external), target)
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.onnx.data"}
    other = tmp_path / "other.onnx"
    onnx.save(small_cnn("float16"), other, save_as_external_data=True, location="others")
    replace = os.replace

    def killed(old: Path, new: Path) -> None:
        if new == target:
            raise KeyboardInterrupt
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_model(read_model(other), target)
    assert same_weights(read_model(target), small_cnn())
    for _ in range(2):
        write_model(read_model(other), target)
        assert same_weights(read_model(target), small_cnn("float16"))
        assert len([*folder.iterdir()]) == 2


@pytest.mark.parametrize("location", ["../weights", "../model/w", "/etc/passwd", "gone", ""])
def test_external_data_must_lie_beside_the_model(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights").write_bytes(bytes(1 << 16))
    inner = tmp_path / "model"
    inner.mkdir()
    (inner / "w").write_bytes(bytes(1 << 16))
    model = small_cnn()
    tensor = model.graph.initializer[2]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (inner / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DecomposeError, match=r"external data of block\.weight"):
        read_model(inner / "model.onnx")


@pytest.mark.parametrize("leaves", [False, True])
def test_a_model_and_its_data_may_be_links_into_one_folder(
    leaves: bool, external: Path, tmp_path: Path
) -> None:
    # As the cache of the Hugging Face hub lays files out.
    blobs, shown = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    elsewhere = tmp_path / "elsewhere" if leaves else blobs
    for folder in (blobs, shown, elsewhere):
        folder.mkdir(parents=True, exist_ok=True)
    for name, folder in ((external.name, blobs), ("weights", elsewhere)):
        (tmp_path / name).rename(folder / f"digest of {name}")
        (shown / name).symlink_to(folder / f"digest of {name}")
    if leaves:
        with pytest.raises(DecomposeError, match="is to lie in the model's own folder"):
            read_model(shown / external.name)
    else:
        assert same_weights(read_model(shown / external.name), small_cnn())


def test_external_data_must_be_long_enough(external: Path) -> None:
    weights = external.with_name("weights")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DecomposeError, match="reaches beyond the end of weights"):
        read_model(external)


def test_damaged_and_old_models_are_refused(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(plain.read_bytes()[:-1000])
    with pytest.raises(DecomposeError, match=r"other.onnx: is damaged or no ONNX file"):
        read_model(path)
    path.write_bytes(b"")
    with pytest.raises(DecomposeError, match="is damaged"):
        read_model(path)
    with pytest.raises(DecomposeError, match="no such file"):
        read_model(tmp_path / "none.onnx")
    onnx.save(make_model([], {}, [1, 2], [1, 2], opset=6), path)
    with pytest.raises(DecomposeError, match="is of opset 6; 7 is the least"):
        read_model(path)
    cyclic = small_cnn()
    cyclic.graph.node[2].input[0] = "g"
    onnx.save(cyclic, path)
    with pytest.raises(DecomposeError, match="is no valid model"):
        read_model(path)
    sparse = small_cnn()
    sparse.graph.sparse_initializer.add()
    onnx.save(sparse, path)
    with pytest.raises(DecomposeError, match="has a sparse_initializer, which cannot be kept"):
        read_model(path)
    twice = small_cnn()
    twice.graph.initializer.append(twice.graph.initializer[0])
    onnx.save(twice, path)
    with pytest.raises(DecomposeError, match=r"the initialiser stem\.weight is there twice"):
        read_model(path)


def test_tensors_of_every_type_are_kept(tmp_path: Path) -> None:
    kinds = ("FLOAT", "BFLOAT16", "INT4", "UINT8", "BOOL", "STRING", "FLOAT8E4M3FN", "INT64")
    values: dict[str, Any] = {"STRING": ["a", "b", "", "d"]}
    tensors = [
        onnx.helper.make_tensor(
            kind, getattr(TensorProto, kind), [2, 2], values.get(kind, [1, 0, 1, 1])
        )
        for kind in kinds
    ]
    model = small_cnn()
    model.graph.initializer.extend(tensors)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    kept = onnx.load_from_string(model_bytes(read_model(path))).graph.initializer
    for tensor in tensors:
        (again,) = (other for other in kept if other.name == tensor.name)
        assert again.data_type == tensor.data_type
        stored = onnx.numpy_helper.to_array(tensor)
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(again), stored)


@pytest.mark.parametrize("dims", [[-1, 3, 3, 3], [1 << 40, 1 << 20], [16, 3, 3, 4], [0, 3]])
def test_shapes_that_the_data_does_not_fill_are_refused(tmp_path: Path, dims: list[int]) -> None:
    model = small_cnn()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DecomposeError, match=r"model\.onnx: "):
        read_model(path)
