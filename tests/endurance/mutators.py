"""Seeded damage to files: to their bytes, to JSON, and to the header of a safetensors file."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

JUNK: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1.5, 1e308, 2**31, 2**63, 10**30, float("nan"), float("inf")),
    *("", "x", "\x1b[31m", "../x", "/dev/zero", "🙂", "a\nb", "9" * 5000),
    *([], [[]], {}, {"a": 1}, [0] * 1000),
)


def cut(data: bytes, rng: random.Random) -> bytes:
    """Only the beginning."""
    return data[: rng.randrange(len(data))]


def lengthen(data: bytes, rng: random.Random) -> bytes:
    """More behind the end."""
    return data + rng.randbytes(rng.randint(1, 300))


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """Some bits the other way."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_bits_early(data: bytes, rng: random.Random) -> bytes:
    """Some bits of the first kilobyte, where headers are."""
    head = data[:1024]
    return flip_bits(head, rng) + data[len(head) :]


def replace_bytes(data: bytes, rng: random.Random) -> bytes:
    """A run of bytes replaced by zeros, ones, noise, or another part of the file."""
    begin = rng.randrange(len(data))
    size = min(rng.choice([1, 2, 4, 8, 64, 512]), len(data) - begin)
    other = rng.randrange(len(data) - size + 1)
    filling = rng.choice(
        [bytes(size), b"\xff" * size, rng.randbytes(size), data[other : other + size]]
    )
    return data[:begin] + filling + data[begin + size :]


def drop_or_repeat(data: bytes, rng: random.Random) -> bytes:
    """A run of bytes left out, or written twice."""
    begin, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:begin] + data[begin:end] * rng.choice([0, 2]) + data[end:]


def write_large_number(data: bytes, rng: random.Random) -> bytes:
    """A length or count where none should be."""
    number = rng.choice([2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 0, 1])
    size = rng.choice([2, 4, 8])
    raw = (number % 2 ** (8 * size)).to_bytes(size, rng.choice(["little", "big"]))
    begin = rng.randrange(len(data))
    return data[:begin] + raw + data[begin + size :]


BYTES: tuple[Mutator, ...] = (
    cut,
    lengthen,
    flip_bits,
    flip_bits_early,
    replace_bytes,
    drop_or_repeat,
    write_large_number,
)


def change_json(data: bytes, rng: random.Random) -> bytes:
    """Values of a JSON file replaced, renamed, dropped or nested."""
    return json.dumps(changed_value(json.loads(data), rng)).encode()


def nest_json(data: bytes, rng: random.Random) -> bytes:
    """A value of a JSON file that is nested very deep."""
    whole = json.loads(data)
    _replace_somewhere(whole, "NESTED", rng)
    depth = rng.choice([10, 1000, 200_000])
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
    inner = opening * depth + "1" + closing * depth
    return json.dumps(whole).replace('"NESTED"', inner).encode()


JSON: tuple[Mutator, ...] = (change_json, change_json, change_json, nest_json)


def changed_value(value: Any, rng: random.Random) -> Any:
    """JSON with one to three changes."""
    for _ in range(rng.randint(1, 3)):
        _replace_somewhere(value, copy.deepcopy(rng.choice(JUNK)), rng)
    return value


def _replace_somewhere(value: Any, junk: Any, rng: random.Random) -> None:
    """Walk down at random, and replace what is there."""
    while isinstance(value, dict | list) and value:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if not isinstance(value[key], dict | list) or not value[key] or rng.random() < 0.3:
            if isinstance(value, dict) and rng.random() < 0.2:
                value[rng.choice(["", "x", f"{key}.", "🙂"])] = value.pop(key)
            elif rng.random() < 0.15:
                del value[key]
            else:
                value[key] = junk
            return
        value = value[key]


def change_header(data: bytes, rng: random.Random) -> bytes:
    """The header of a safetensors file changed, its length with it."""
    header = changed_value(_header(data), rng)
    return _with_header(data, json.dumps(header).encode())


def change_record(data: bytes, rng: random.Random) -> bytes:
    """The JSON within a safetensors file's metadata changed."""
    header = _header(data)
    metadata = header.get("__metadata__", {})
    nested = [key for key, text in metadata.items() if text[:1] in "{["]
    if nested:
        key = rng.choice(nested)
        metadata[key] = json.dumps(changed_value(json.loads(metadata[key]), rng))
    return _with_header(data, json.dumps(header).encode())


def change_architecture(data: bytes, rng: random.Random) -> bytes:
    """The words that name an architecture and its options, in metadata, changed."""
    header = _header(data)
    words = [
        *("weights_backbone=DEFAULT", "weights=IMAGENET1K_V1", "num_classes=0", "num_classes=-1"),
        *("num_classes=1e9", "width_mult=1e308", "checkpoint_path=/etc/passwd", "pretrained=true"),
        *("x=", "{[]:1}", "-" * 3000, "round_nearest=0", "norm_layer=os.system", "=", ",", ":"),
    ]
    metadata = header["__metadata__"]
    for key, text in metadata.items():
        if (at := text.find("squeezenet1_1")) >= 0:
            end = at + len("squeezenet1_1")
            word, tail = rng.choice(words), text[end:]
            if rng.random() < 0.5:
                tail = tail[tail.find('"') :] if '"' in tail else ""
            other = rng.choice(["squeezenet1_1", "vgg11", "fcn_resnet50", "x", "hub:a/b"])
            metadata[key] = f"{text[:at]}{other},{word}{tail}"
    return _with_header(data, json.dumps(header).encode())


SAFETENSORS: tuple[Mutator, ...] = (change_header, change_record, change_record)

HEADER: tuple[Mutator, ...] = (*SAFETENSORS, change_architecture, change_architecture)


def _header(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])


def _with_header(data: bytes, text: bytes) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    return struct.pack("<Q", len(text)) + text + data[8 + length :]
