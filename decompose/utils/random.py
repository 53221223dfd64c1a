"""A seed for each named draw."""

from __future__ import annotations

import hashlib


def draw_seed(*parts: int) -> int:
    """A seed for one draw, in [0, 2^63), that tells apart the draws named by so many numbers.

    Adjacent numbers give unrelated seeds, which ``seed + index`` would not.
    """
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
