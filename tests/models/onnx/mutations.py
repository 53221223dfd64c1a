"""Damaged ONNX files: each is to end in an error of one line, or in what onnxruntime makes of it too.

Run as a program, since only a process's end shows a crash::

    python -m tests.onnx.mutations FOLDER FIRST LAST
"""

from __future__ import annotations

import json
import random
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto, TensorProto

import decompose
from decompose.models.onnx.module import OnnxModule
from tests.models.onnx.cases import run_onnx, small_cnn

_ABSURD = (-1, 0, 1, 2, 3, 255, 1 << 16, 1 << 31, 1 << 40, (1 << 62) + 1)
_ROUNDED = 1e4
"""Weights beyond this leave little of the other digits."""


def _truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _flipped(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    # Most bytes are weights, and the graph is at both ends.
    for _ in range(rng.choice((1, 2, 8))):
        place = rng.choice((rng.randrange(len(damaged)), rng.randrange(1500)))
        damaged[place] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _through(change: Callable[[ModelProto, random.Random], None]) -> Callable[..., bytes]:
    def mutate(content: bytes, rng: random.Random) -> bytes:
        model = ModelProto.FromString(content)
        change(model, rng)
        return model.SerializeToString()

    return mutate


def _rename(model: ModelProto, rng: random.Random) -> None:
    graph = model.graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    node = rng.choice(graph.node)
    values = rng.choice((node.input, node.output))
    values[rng.randrange(len(values))] = rng.choice((*names, "nobody", ""))
    if rng.random() < 0.3:
        rng.choice(graph.initializer).name = rng.choice(names)


def _reshape(model: ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.5:
        dims = rng.choice(model.graph.initializer).dims
        dims[rng.randrange(len(dims))] = rng.choice(_ABSURD)
    else:
        dim = rng.choice(model.graph.input[0].type.tensor_type.shape.dim)
        dim.dim_value = rng.choice(_ABSURD)


def _readjust(model: ModelProto, rng: random.Random) -> None:
    attributes = [a for node in model.graph.node for a in node.attribute]
    attribute = rng.choice(attributes)
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_ABSURD)
    else:
        attribute.i = rng.choice(_ABSURD)
        attribute.s = rng.choice((b"SAME_LOWER", b"\xff", b""))


def _reorder(model: ModelProto, rng: random.Random) -> None:
    graph = model.graph
    if rng.random() < 0.5:
        nodes = list(graph.node)
        rng.shuffle(nodes)
        del graph.node[:]
        graph.node.extend(nodes)
    else:
        node, later = sorted(rng.sample(range(len(graph.node)), 2))
        graph.node[node].input[0] = graph.node[later].output[0]


def _replace(model: ModelProto, rng: random.Random) -> None:
    kinds = ("Conv", "ConvTranspose", "Gemm", "Relu", "If", "Loop", "Resize", "Tile", "Nonsense")
    node = rng.choice(model.graph.node)
    node.op_type = rng.choice(kinds)
    if rng.random() < 0.3:
        node.domain = rng.choice(("com.microsoft", "nobody"))


def _retype(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    if rng.random() < 0.5:
        tensor.data_type = rng.randrange(24)
    else:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=rng.choice(("../secret", "/etc/passwd", "")))
        tensor.external_data.add(key="length", value=rng.choice(("4", "-1", "1" * 30)))


_MUTATIONS = (
    _truncated,
    _flipped,
    _flipped,
    _flipped,
    *map(_through, (_rename, _reshape, _readjust, _reorder, _replace, _retype)),
)


def mutated(seed: int) -> bytes:
    """A damaged file's content."""
    rng = random.Random(seed)
    return rng.choice(_MUTATIONS)(small_cnn().SerializeToString(), rng)


def outcome(content: bytes, folder: Path) -> str:
    """What compressing a file comes to: ``refused``, ``agrees``, ``overflows`` or what is wrong."""
    source, target = folder / "mutated.onnx", folder / "small.onnx"
    source.write_bytes(content)
    target.unlink(missing_ok=True)
    try:
        network = decompose.load(source)
        assert isinstance(network, OnnxModule)
        shape = network.signature.shape((16, 16)) if None in network.signature.dims[2:] else None
        shape = (1, *(shape or network.signature.shape()))
        if prod(shape) > 1 << 22:
            return "refused"  # it may be run, only not by a test
        example = torch.randn(shape).to(network.signature.dtype)
        with torch.no_grad():
            given = network(example)
        small = decompose.apply(decompose.plan(network, example, rank=2), network)
        decompose.save(small, target)
    except decompose.DecomposeError as error:
        if "\n" in str(error) or target.exists() or len(list(folder.iterdir())) != 1:
            return f"half-written, or more than a line: {error}"
        return "refused"
    seen = network.signature.arranged(example)
    try:
        wanted = run_onnx(source, seen)[0]
    # onnxruntime's own have no base.
    except Exception as error:  # noqa: BLE001
        return f"more than onnxruntime takes: {error}"
    if any(weight.abs().max() > _ROUNDED for weight in network.parameters()):
        return "overflows"  # and is rounded by each in its own way
    if not np.allclose(given, wanted, rtol=1e-3, atol=1e-3, equal_nan=True):
        return "differs from onnxruntime"
    with torch.no_grad():
        given = small(example)
    if not np.allclose(given, run_onnx(target, seen)[0], rtol=1e-3, atol=1e-3, equal_nan=True):
        return "what was written differs"
    return "agrees"


def main(folder: Path, first: int, last: int) -> None:
    """Go through mutations, telling each before it is tried, and what they came to at the end."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    outcomes: Counter[str] = Counter()
    for seed in range(first, last):
        print(seed, file=sys.stderr, flush=True)
        torch.manual_seed(seed)
        # Anything but the one error of users is a mistake, and all of them are to be seen.
        try:
            what = outcome(mutated(seed), folder)
        except Exception as error:  # noqa: BLE001
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} in {where.name}: {error}"
        if what not in ("refused", "agrees", "overflows"):
            what = f"{seed}: {what}"
        outcomes[what] += 1
    print(json.dumps({"outcomes": outcomes, "peak_bytes": _peak_bytes()}))


def _peak_bytes() -> int | None:
    """The most memory that this program has had; ``None`` where the system does not report it."""
    # getrusage counts the process that has started this one as well.
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return 1024 * int(found[0]) if found else None


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
