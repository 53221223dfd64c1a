"""Damage every kind of file and kill commands, thousands of times, and keep the counts.

    python -m tests.endurance.run --mutants 2000 --kills 200 --jobs 2 --output runs/endurance

Of what the output's record holds already, those kinds are counted anew that this run tries.

Exits with code 1 where anything was lost: a traceback, more than one line, a signal, memory or time beyond
their bounds, or a file that was half written.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from decompose.utils.environment import environment
from decompose.utils.files import write_text
from decompose.utils.progress import track
from tests.endurance.forks import READ, REFUSED, endings_of
from tests.endurance.kills import COMMANDS, killed
from tests.endurance.kinds import KINDS, Kind


@dataclass
class Count:
    """How tries of one kind ended.

    Attributes:
        name: of the kind.
        tried: how many there were.
        read: that were read, or survived a kill.
        refused: that were refused in one line.
        lost: how the others ended, by seed.
        seconds: of CPU time that all of them took.
    """

    name: str
    tried: int = 0
    read: int = 0
    refused: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The counts, ready for JSON."""
        return {**vars(self), "lost": len(self.lost)}


def damage(kind: Kind, num_mutants: int, first_seed: int = 0) -> Count:
    """Read damaged files of a kind, each in a fork.

    Args:
        kind: of file.
        num_mutants: how many.
        first_seed: the same seed makes the same damage.
    """
    start = _cpu_seconds()
    endings: Counter[str] = Counter()
    lost: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole", kind.file)
        whole.parent.mkdir()
        kind.write(whole)
        content = whole.read_bytes()
        kind.read(whole)
        path = Path(folder, "damaged", kind.file)
        shutil.copytree(whole.parent, path.parent)

        def run(seed: int) -> None:
            """Write a damaged file and read it."""
            rng = random.Random(zlib.crc32(f"{kind.name} {seed}".encode()))
            path.write_bytes(rng.choice(kind.all_mutators)(content, rng))
            kind.read(path)

        seeds = range(first_seed, first_seed + num_mutants)
        found = endings_of([partial(run, seed) for seed in seeds])
        for seed, ending in track(zip(seeds, found, strict=True), kind.name, num_mutants):
            endings[ending] += 1
            if ending not in (READ, REFUSED):
                lost[f"{seed}"] = ending
    seconds = round(_cpu_seconds() - start, 1)
    return Count(kind.name, num_mutants, endings[READ], endings[REFUSED], lost, seconds)


def kill(name: str, num_kills: int, first_seed: int = 0) -> Count:
    """Kill a command at random moments, as ``kills.killed``."""
    start = _cpu_seconds()
    lost = {}
    for seed in track(range(first_seed, first_seed + num_kills), f"killing {name}"):
        if problem := killed(name, random.Random(seed)):
            lost[f"{seed}"] = problem
    seconds = round(_cpu_seconds() - start, 1)
    return Count(f"kill of {name}", num_kills, num_kills - len(lost), 0, lost, seconds)


def _cpu_seconds() -> float:
    """CPU time of this process and of those that it waited for."""
    return sum(os.times()[:4])


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=2000, help="of each kind")
    parser.add_argument("--kills", type=int, default=200, help="of all commands together")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="to kill; all by default")
    parser.add_argument("--only", default="", help="kinds whose names hold this")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--output", type=Path, help="folder for results.json")
    given, start = parser.parse_args(), time.monotonic()
    names = [name for name in given.commands.split(",") if name]
    kinds = [index for index, kind in enumerate(KINDS) if given.only in kind.name]
    weights = {name: COMMANDS[name].weight for name in names}
    kills = {
        name: round(given.kills * weight / sum(weights.values()))
        for name, weight in weights.items()
    }
    # The longest jobs first, so that no process waits for another at the end.
    jobs = [partial(kill, name, num) for name, num in reversed(kills.items()) if num]
    jobs += [partial(_damage, index, given.mutants) for index in kinds if given.mutants]
    any_lost = False
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.jobs, spawned, torch.set_num_threads, (1,)) as pool:
        for count in pool.map(_call, jobs):
            any_lost |= bool(count.lost)
            print(f"{count.name}: {count.tried:,} tried, {len(count.lost)} lost", flush=True)
            for seed, ending in count.lost.items():
                print(f"  seed {seed}: {ending}", flush=True)
            if given.output is not None:
                keep(count, given.output / "results.json")
    print(f"{(time.monotonic() - start) / 60:.1f} minutes", flush=True)
    return int(any_lost)


def keep(count: Count, path: Path) -> None:
    """Write a count into a record, in the place of an earlier one of the same kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {"counts": []}
    names = [kind.name for kind in KINDS] + [f"kill of {name}" for name in COMMANDS]
    counts = {each["name"]: each for each in known["counts"]} | {count.name: count.to_dict()}
    ordered = [counts[name] for name in names if name in counts]
    record = {"environment": environment(), "counts": ordered}
    write_text(path, json.dumps(record, indent=1) + "\n")


def _damage(index: int, num_mutants: int) -> Count:
    """Damage files of a kind that is named by its place, since a function goes to no other process."""
    return damage(KINDS[index], num_mutants)


def _call(job: Callable[[], Count]) -> Count:
    return job()


if __name__ == "__main__":
    sys.exit(main())
