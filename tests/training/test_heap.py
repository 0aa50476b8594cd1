"""A heap that keeps what it was given back: no fresh pages for the blocks of the next step."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from pipeline.training.heap import keep_memory
if sys.argv[1] == "kept":
    assert keep_memory(large=True)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    return [torch.ones(size << 18) for size in (40, 3, 70)]
for _ in range(8):
    step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_later_steps_cost_no_fresh_pages() -> None:
    found = {
        how: int(subprocess.run([sys.executable, "-c", SCRIPT, how], check=True, capture_output=True, text=True).stdout)
        for how in ("kept", "given back")
    }
    pages = 5 * 113 * (1 << 20) // 4096
    assert found["kept"] < pages // 2 < found["given back"], found
