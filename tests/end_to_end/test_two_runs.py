"""Two runs at once on one pipeline name: the second is refused and told who holds it, or waits when asked to."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pipeline import lease
from pipeline.storage import Storage
from tests.end_to_end import tiny

LEASE = "pipelines/tiny/lease.json"


def test_the_second_run_exits_5_and_names_the_holder(tmp_path: Path) -> None:
    file = tiny.make(tmp_path)
    with lease.hold(Storage.at(str(tmp_path / "storage")), LEASE, "the-first-run"):
        second = tiny.run(file, "--until", "ingest")
        waiting = tiny.run(file, "--until", "ingest", "--wait", "1")
    for done in (second, waiting):
        assert done.returncode == 5
        assert done.stdout.splitlines()[-1] == "PIPELINE_EXIT=5"
        assert f"held by run the-first-run (pid {os.getpid()} on " in done.stderr and "--wait" in done.stderr, done.stderr
    assert not (tmp_path / "storage" / "units").exists()
    assert tiny.temporary(tmp_path / "storage") == []


def test_a_run_that_may_wait_goes_on_when_the_holder_is_done(tmp_path: Path, control: Path) -> None:
    # What is left to do needs no Ray: the manifest of a stage without units.
    storage = tmp_path / "p" / "storage"
    shutil.copytree(control, tmp_path / "p")
    (manifest,) = storage.glob("artifacts/examples/*/manifest.json")
    manifest.unlink()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lease.hold(Storage.at(str(storage)), LEASE, "the-first-run"):
            entered.set()
            leave.wait(120)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(10)
    waiting = subprocess.Popen(
        tiny.command(tmp_path / "p" / "pipeline.yaml", "--until", "examples", "--wait", "120"),
        cwd=tmp_path, env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        time.sleep(3)
        assert waiting.poll() is None and not manifest.exists()
    finally:
        leave.set()
    output, _ = waiting.communicate(timeout=120)
    holder.join()
    assert (waiting.returncode, output.splitlines()[-1]) == (0, "PIPELINE_EXIT=0"), output
    assert manifest.exists()


@pytest.mark.slow
def test_of_two_whole_runs_at_once_one_works_and_the_other_waits_and_finds_it_done(tmp_path: Path, control: Path) -> None:
    file = tiny.make(tmp_path)
    runs = [
        subprocess.Popen(
            tiny.command(file, "--until", "pack", *extra), cwd=tmp_path, env=tiny.environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for extra in ((), (), ("--wait", "600"))
    ]  # fmt: skip
    outputs = [run.communicate(timeout=600)[0] for run in runs]
    codes = [run.returncode for run in runs]
    # Whoever came first works; the others are refused or wait, and the one that waits finds nothing left to do.
    assert sorted(codes) in ([0, 0, 5], [0, 5, 5]), outputs
    assert codes[2] == 0, outputs
    assert all("held by run " in output for code, output in zip(codes, outputs, strict=True) if code == 5)
    assert tiny.exact_digests(tmp_path / "storage") == tiny.exact_digests(control / "storage")
