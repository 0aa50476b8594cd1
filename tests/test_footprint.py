"""Peak memory of the process tree is seen, also of short stages."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from pipeline import footprint
from pipeline.footprint import Footprint, tree_pss_bytes

MIB = 1 << 20


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


def test_a_mark_gives_the_peak_since_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "EVERY_S", 0.05)
    with Footprint() as held:
        low = held.mark()
        large = bytearray(b"x") * (150 * MIB)
        time.sleep(0.5)
        high = held.mark()
        del large
        held.mark()
        after = held.mark()
    assert low > 0
    assert high - low > 140 * MIB
    assert high - after > 100 * MIB
    assert held.peak_bytes >= high


def test_a_stage_shorter_than_a_sample_still_has_a_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "EVERY_S", 60.0)
    with Footprint() as held:
        held.mark()
        assert held.mark() > MIB
    assert not held._thread.is_alive()
