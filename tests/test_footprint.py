"""Peak memory of the process tree is seen, also of short stages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline import footprint
from pipeline.footprint import Footprint, tree_pss_bytes

MIB = 1 << 20
ROOT = Path(__file__).resolve().parent.parent


def test_memory_of_children_counts_and_is_gone_when_they_are() -> None:
    before = tree_pss_bytes(psutil.Process())
    code = "x = bytearray(b'x') * (150 << 20); print('ready', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert tree_pss_bytes(psutil.Process()) - before > 140 * MIB
    finally:
        child.communicate("\n")
    assert tree_pss_bytes(psutil.Process()) - before < 100 * MIB


def test_a_process_that_is_gone_counts_as_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    process = psutil.Process(child.pid)
    child.wait()
    assert tree_pss_bytes(process) == 0


MARKS = """
import json, time
from pipeline import footprint

footprint.EVERY_S = 0.05
with footprint.Footprint() as held:
    low = held.mark()
    large = bytearray(b"x") * (150 << 20)
    time.sleep(0.5)
    high = held.mark()
    del large
    held.mark()
    after = held.mark()
print(json.dumps([low, high, after, held.peak_bytes]))
"""


def test_a_mark_gives_the_peak_since_the_one_before() -> None:
    """In a process of its own: a Ray that an earlier test left idle here would end workers meanwhile, and their memory counts."""
    output = subprocess.run([sys.executable, "-c", MARKS], check=True, capture_output=True, text=True, timeout=60, cwd=ROOT).stdout
    low, high, after, peak = json.loads(output)
    assert low > 0
    assert high - low > 140 * MIB
    assert high - after > 100 * MIB
    assert peak >= high


def test_a_stage_shorter_than_a_sample_still_has_a_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "EVERY_S", 60.0)
    with Footprint() as held:
        held.mark()
        assert held.mark() > MIB
    assert not held._thread.is_alive()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to know what a process holds")
def test_a_process_gets_no_more_than_its_bound_and_as_much_as_before_behind_it() -> None:
    code = (
        "from pipeline.footprint import at_most\n"
        "def fits(size):\n"
        "    try:\n        return bool(bytearray(size))\n    except MemoryError:\n        return False\n"
        "large = 300 << 20\n"
        "with at_most(None):\n    print(fits(large))\n"
        "for _ in range(2):\n"
        "    with at_most(200 << 20):\n        print(fits(large), fits(100 << 20))\n"
        "print(fits(large))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["True", "False True", "False True", "True"]
