"""Freed memory is used again instead of being mapped afresh."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from decompose.inference.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh = faults()
kept = keep_freed_memory()
faults()
print(kept, fresh, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_kept_memory_costs_no_page_faults() -> None:
    # The setting is the whole process's and for good, so another one takes it.
    command = [sys.executable, "-c", FAULTS]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    kept, fresh, again = printed.split()
    if kept == "False":
        pytest.skip("the allocator is not glibc's")
    assert int(again) < int(fresh) / 10
