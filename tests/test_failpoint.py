"""Failpoints act at the named place and passage, once if asked, and nowhere else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import failpoint as failpoints
from pipeline.failpoint import failpoint

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    failpoints._passages.clear()
    yield
    failpoints._passages.clear()


def run(wanted: str, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PIPELINE_FAILPOINT": wanted, "PYTHONPATH": str(ROOT), **environment}
    program = f"from pipeline.failpoint import failpoint\n{code}"
    return subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, timeout=30)


def test_without_the_variable_nothing_happens() -> None:
    for _ in range(3):
        failpoint("a")


def test_raise_is_a_full_disk_and_needs_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_FAILPOINT", "a:raise")
    failpoint("b")
    with pytest.raises(OSError, match="no space left") as caught:
        failpoint("a")
    assert caught.value.errno == errno.ENOSPC
    failpoint("a")


def test_the_count_says_at_which_passage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_FAILPOINT", "other:raise:1,a:raise:3,a:raise:4")
    failpoint("a")
    failpoint("a")
    for _ in range(2):
        with pytest.raises(OSError, match="failpoint a"):
            failpoint("a")
    failpoint("a")


@pytest.mark.parametrize("wanted", ["a", "a:kill", "a:kill:1"])
def test_kill_is_the_default_and_leaves_no_chance_to_clean_up(wanted: str) -> None:
    done = run(wanted, "try:\n    failpoint('a')\nfinally:\n    print('cleaned')")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""


def test_stop_freezes_the_process() -> None:
    settings = {**os.environ, "PIPELINE_FAILPOINT": "a:stop", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", "from pipeline.failpoint import failpoint; failpoint('a')"], env=settings)
    try:
        end = time.monotonic() + 20
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < end, "it was never stopped"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_with_a_once_file_only_the_first_process_dies(tmp_path: Path) -> None:
    once = str(tmp_path / "once")
    codes = [run("a:kill", "failpoint('a')", PIPELINE_FAILPOINT_ONCE=once).returncode for _ in range(3)]
    assert codes == [-signal.SIGKILL, 0, 0]


def test_with_a_once_folder_each_place_kills_one_process(tmp_path: Path) -> None:
    code = "failpoint('a'); failpoint('b')"
    codes = [run("a:kill,b:kill", code, PIPELINE_FAILPOINT_ONCE=str(tmp_path)).returncode for _ in range(3)]
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_an_error_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_FAILPOINT", "a:raise-EMFILE")
    with pytest.raises(OSError, match="Too many open files") as caught:
        failpoint("a")
    assert caught.value.errno == errno.EMFILE


@pytest.mark.parametrize("action", ["explode", "raise-EVERYTHING"])
def test_an_unknown_action_is_an_error_that_names_the_allowed_ones(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    monkeypatch.setenv("PIPELINE_FAILPOINT", f"a:{action}")
    with pytest.raises(ValueError, match=f"'{action}': allowed are kill, stop, hang, raise"):
        failpoint("a")
