"""Damaged files of the kind that ``save`` writes, and a program that loads a thousand of them.

Run by ``test_mutations`` in a process of its own, whose memory is bounded: ``python -m tests.mutations
FOLDER``. It prints, as JSON, how loading ended how often, and what should not have happened.
"""

from __future__ import annotations

import json
import random
import resource
import struct
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import decompose
from decompose import Choice, DecomposeError, Plan
from decompose.layers.batchnorm import fold_pairs
from decompose.methods import METHODS
from tests.support.strategies import Mixed

NUM_MUTATIONS = 1000
EXAMPLE = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)

_NAMED = "torchvision:squeezenet1_1,weights=none,num_classes=3"
_BYTES = 2 << 30
"""Of memory that loading may take beyond what the libraries have."""

_HUGE = (2**31, 2**62, 2**63 - 1, 2**64, 10**30)
_JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    "",
    "x",
    "🙂",
    [],
    [[]],
    {},
    {"a": 1},
    float("nan"),
)

Mutation = Callable[[bytes, random.Random], bytes]


def write_originals(folder: Path) -> list[tuple[Path, nn.Module | None]]:
    """Two files that ``save`` wrote, with the module that they need to be loaded."""
    torch.manual_seed(0)
    model, named = Mixed().eval(), decompose.load(_NAMED)
    plan = Plan(
        {
            "stem": Choice("channel", 5, (Choice("pw_dw", 2), None)),
            "blocks.0.0": Choice("spatial", 4, (None, Choice("dw_pw", 2))),
            "blocks.1.0": Choice("tucker", 6),
            "heads.mask": Choice("pw_dw", 3),
            "grouped": Choice("dw_pw", 4),
            "classifier": Choice("svd", 3),
        },
        forms={"grouped": "merged"},
    )
    files = [(folder / "mixed.safetensors", model), (folder / "named.safetensors", None)]
    folded = fold_pairs(model, {"stem": "norm"})
    decompose.save(decompose.apply(plan, folded), files[0][0])
    squeezed = decompose.plan(named, torch.zeros(1, 3, 64, 64), method="spatial", ratio=2)
    decompose.save(decompose.apply(squeezed, named), files[1][0])
    return files


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def lengthen(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.randint(1, 64))


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    return _flipped(data, rng, 0, len(data))


def flip_bits_of_header(data: bytes, rng: random.Random) -> bytes:
    return _flipped(data, rng, 0, 8 + _header_length(data))


def lie_about_header(data: bytes, rng: random.Random) -> bytes:
    length = rng.choice(
        [0, 1, 2**63, 2**64 - 1, len(data), _header_length(data) + rng.choice([-1, 1])]
    )
    return struct.pack("<Q", length) + data[8:]


def rename_tensors(data: bytes, rng: random.Random) -> bytes:
    def mutate(header: dict[str, Any]) -> None:
        first, second = rng.sample([name for name in header if name != "__metadata__"], 2)
        if rng.random() < 0.5:
            header[first], header[second] = header[second], header[first]
        else:
            header[rng.choice(["", "x", f"{first}.", second.upper(), "🙂"])] = header.pop(first)

    return _with_header(data, mutate)


def change_tensors(data: bytes, rng: random.Random) -> bytes:
    def mutate(header: dict[str, Any]) -> None:
        name = rng.choice([name for name in header if name != "__metadata__"])
        entry = header[name]
        match rng.randrange(5):
            case 0:
                entry["shape"] = [rng.choice([*_HUGE, 0, 1, -1]) for _ in range(rng.randint(0, 5))]
            case 1:
                entry["shape"] = rng.sample(entry["shape"], len(entry["shape"])) + [
                    1
                ] * rng.randint(0, 2)
            case 2:
                entry["dtype"] = rng.choice(
                    ["I32", "U32", "F64", "F16", "BF16", "C64", "F8_E4M3", "BOOL", "x"]
                )
            case 3:
                entry["data_offsets"] = [rng.choice([*_HUGE, 0, 4, -4]) for _ in range(2)]
            case 4:
                header[name] = rng.choice(_JUNK)

    return _with_header(data, mutate)


def drop_tensors(data: bytes, rng: random.Random) -> bytes:
    def mutate(header: dict[str, Any]) -> None:
        # What follows moves up, so that the file itself stays whole.
        name = rng.choice([name for name in header if name != "__metadata__"])
        begin, end = header.pop(name)["data_offsets"]
        for entry in header.values():
            if "data_offsets" in entry and entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
        removed.append((begin, end))

    removed: list[tuple[int, int]] = []
    mutated = _with_header(data, mutate)
    body = 8 + _header_length(mutated)
    ((begin, end),) = removed
    return mutated[: body + begin] + mutated[body + end :]


def change_record(data: bytes, rng: random.Random) -> bytes:
    def mutate(record: dict[str, Any]) -> None:
        key = rng.choice([*record, "new"])
        record[key] = rng.choice(
            [*_JUNK, "torchvision:resnet18,weights=none,num_classes=10000000000"]
        )

    return _with_record(data, mutate)


def change_plan(data: bytes, rng: random.Random) -> bytes:
    def mutate(record: dict[str, Any]) -> None:
        plan = record["plan"]
        part = rng.choice(
            ["layers", "layers", "dense", "notes", "forms", "pace", "format", "version"]
        )
        if part == "layers" or rng.random() < 0.5:
            name = rng.choice([*plan["layers"], "no.such.layer", "blocks", ""])
            inside = plan.setdefault(part, {})
            if isinstance(inside, dict):
                inside[name] = rng.choice([*_JUNK, *METHODS])
        else:
            plan[part] = rng.choice(_JUNK)

    return _with_record(data, mutate)


def change_folded(data: bytes, rng: random.Random) -> bytes:
    def mutate(record: dict[str, Any]) -> None:
        names = ["stem", "norm", "classifier", "heads.mask", "blocks.0.0", "pointwise", "", "no"]
        pairs = {rng.choice(names): rng.choice([*names, *_JUNK]) for _ in range(rng.randint(0, 3))}
        record["folded"] = rng.choice([pairs, pairs, pairs, rng.choice(_JUNK)])

    return _with_record(data, mutate)


def change_choice(data: bytes, rng: random.Random) -> bytes:
    def mutate(record: dict[str, Any]) -> None:
        choice = rng.choice(list(record["plan"]["layers"].values()))
        match rng.randrange(4):
            case 0:
                choice["rank"] = rng.choice(
                    [*_JUNK, *_HUGE, rng.randint(1, 20), choice["rank"] + 1]
                )
            case 1:
                choice["method"] = rng.choice([*METHODS, *_JUNK])
            case 2:
                choice["then"] = rng.choice([*_JUNK, [dict(choice)] * rng.choice([1, 2, 9, 1000])])
            case 3:
                choice[rng.choice(["then", "new"])] = rng.choice(_JUNK)

    return _with_record(data, mutate)


def nest_choices(data: bytes, rng: random.Random) -> bytes:
    depth = rng.choice([1, 2, 3, 10, 100, 900, 5000, 100_000])
    method = rng.choice(["tucker", "channel", "spatial", "pw_dw"])

    def mutate(record: dict[str, Any]) -> None:
        name = rng.choice(list(record["plan"]["layers"]))
        record["plan"]["layers"][name] = "NESTED"

    inner = f'{{"method": "{method}", "rank": 2, "then": [' * depth + "null" + "]}" * depth
    return _with_record(data, mutate, lambda text: text.replace('"NESTED"', inner))


MUTATIONS: tuple[Mutation, ...] = (
    cut,
    lengthen,
    flip_bits,
    flip_bits_of_header,
    lie_about_header,
    rename_tensors,
    change_tensors,
    drop_tensors,
    change_record,
    change_plan,
    change_folded,
    change_choice,
    nest_choices,
)


def _header_length(data: bytes) -> int:
    return struct.unpack("<Q", data[:8])[0]


def _flipped(data: bytes, rng: random.Random, begin: int, end: int) -> bytes:
    mutated = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        mutated[rng.randrange(begin, end)] ^= 1 << rng.randrange(8)
    return bytes(mutated)


def _with_header(data: bytes, mutate: Callable[[dict[str, Any]], None]) -> bytes:
    length = _header_length(data)
    header = json.loads(data[8 : 8 + length])
    mutate(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _with_record(
    data: bytes,
    mutate: Callable[[dict[str, Any]], None],
    finish: Callable[[str], str] = str,
) -> bytes:
    def mutate_header(header: dict[str, Any]) -> None:
        record = json.loads(header["__metadata__"]["decompose"])
        mutate(record)
        header["__metadata__"]["decompose"] = finish(json.dumps(record))

    return _with_header(data, mutate_header)


def outcome(path: Path, skeleton: nn.Module | None) -> str:
    """How loading a file ends: ``refused``, ``loaded``, or what is wrong with it."""
    try:
        model = decompose.load(path, skeleton)
    except DecomposeError as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error}"
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what is looked for
        return f"{type(error).__name__}: {str(error)[:200]}"
    with torch.no_grad():
        output = model.eval()(EXAMPLE if skeleton is not None else EXAMPLE.repeat(1, 1, 4, 4))
    if output.shape != (1, 7 if skeleton is not None else 3):
        return f"an output of shape {tuple(output.shape)}"
    return "loaded" if torch.isfinite(output).all() else "an output that is not finite"


def main(folder: Path) -> None:
    """Load all of them and print what came of it."""
    torch.set_num_threads(1)
    originals = write_originals(folder)
    contents = [path.read_bytes() for path, _ in originals]
    assert [outcome(*original) for original in originals] == ["loaded"] * 2
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _BYTES, used + _BYTES))
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for seed in range(NUM_MUTATIONS):
        rng = random.Random(seed)
        # Every eighth is the named one, which takes longer to build.
        which = int(seed % 8 == 0)
        mutation = rng.choice(MUTATIONS)
        path = folder / "mutated.safetensors"
        path.write_bytes(mutation(contents[which], rng))
        ended = outcome(path, originals[which][1])
        counts[ended if ended in ("refused", "loaded") else "wrong"] += 1
        if ended not in ("refused", "loaded"):
            wrong.append(f"{mutation.__name__}, seed {seed}: {ended}")
    print(json.dumps({"counts": counts, "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
