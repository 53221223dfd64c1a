"""Derive a seed for each random draw."""

from __future__ import annotations

import hashlib


def draw_seed(*parts: int) -> int:
    """A seed in [0, 2^63) that differs for every list of numbers.

    Adjacent numbers give unrelated seeds, which ``seed + index`` would not.
    """
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
