"""SIGKILL at every failpoint of every phase of `ingest`, `clean` and `dedup`: the same bytes; and the same bytes in other surroundings.

whole         one run with nothing in its way, on the corpus of `repeats`, in which every phase has something to do
driver        dies at one failpoint after the other in one storage, each run going on where the one before died         (tests.end_to_end.alone)
worker        each failpoint of a stage kills one worker of a real Ray, in one run
surroundings  hash seed, time zone, locale, order of the units
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.end_to_end import alone, repeats, tiny

UNTIL = ("--until", "dedup")
ELSEWHERE = {
    "PIPELINE_UNIT_ORDER": "shuffle:11", "PYTHONHASHSEED": "4321", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
}  # fmt: skip
TURKISH = {"PYTHONHASHSEED": "0", "TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}


def as_whole(folder: Path, whole: Path) -> None:
    """Every unit's files have the same bytes under the same names, every manifest says the same, and nothing half-written is left."""
    assert repeats.units(folder / "storage") == repeats.units(whole / "storage") != {}
    assert repeats.digests(folder / "storage") == repeats.digests(whole / "storage")
    assert tiny.temporary(folder / "storage") == []


def without(folder: Path, whole: Path, stage: str, *phases: str) -> Path:
    """A copy of `whole` in which a stage and those behind it have not run; of the stage only `phases`, where some are given."""
    shutil.copytree(whole, folder)
    for later in repeats.STAGES[repeats.STAGES.index(stage) :]:
        shutil.rmtree(folder / "storage" / "artifacts" / later)
        for phase in repeats.PHASES[later]:
            if later != stage or not phases or phase in phases:
                shutil.rmtree(folder / "storage" / "units" / later / phase)
    return folder / "pipeline.yaml"


def records(folder: Path, stage: str, phase: str) -> set[str]:
    return {path.name for path in (folder / "storage" / "units" / stage / phase).rglob("*.json")}


def the_driver_dies_at_every_border(drivers: alone.Drivers, folder: Path, whole: Path, stage: str, *phases: str) -> None:
    file = without(folder, whole, stage, *phases)
    for phase in phases or repeats.PHASES[stage]:
        for border in (*(f"{stage}.{phase}.{border}" for border in repeats.BORDERS), *repeats.PUBLISH_BORDERS):
            if records(folder, stage, phase) == records(whole, stage, phase):  # the last kill came when all was done: once more
                shutil.rmtree(folder / "storage" / "units" / stage / phase)
            died = drivers.run(file, *UNTIL, env={"PIPELINE_FAILPOINT": f"{border}:kill:1"})
            assert died.code == -signal.SIGKILL, f"{phase}, {border}: {died.text}"
            for name, content in repeats.units(folder / "storage").items():
                assert content == (whole / "storage" / "units" / name).read_bytes(), f"{phase}, {border}: {name}"
    if not phases:
        for border in repeats.MANIFEST_BORDERS:
            shutil.rmtree(folder / "storage" / "artifacts" / stage, ignore_errors=True)
            died = drivers.run(file, *UNTIL, env={"PIPELINE_FAILPOINT": f"{border}:kill:1"})
            assert died.code == -signal.SIGKILL, f"{border}: {died.text}"
    done = drivers.run(file, *UNTIL)
    assert done.code == 0, done.text
    as_whole(folder, whole)


def test_every_phase_has_something_to_do_and_none_is_forgotten(whole: Path) -> None:
    assert repeats.phases_of(whole / "storage") == {stage: set(phases) for stage, phases in repeats.PHASES.items()}
    dropped = tiny.manifests(whole / "storage", "repeats")["dedup"]["content"]
    reasons = {reason for account in dropped["ledgers"]["documents"]["languages"].values() for reason in account["dropped"]}
    assert reasons >= {"duplicate", "duplicate_url", "near_duplicate", "contaminated"}
    assert dropped["counts"]["dropped_lines"] > 0


@pytest.mark.fault("K2")
def test_a_driver_killed_at_each_border_of_a_phase_is_gone_on_from(drivers: alone.Drivers, tmp_path: Path, whole: Path) -> None:
    the_driver_dies_at_every_border(drivers, tmp_path / "p", whole, "dedup", "shingles")


@pytest.mark.slow
@pytest.mark.fault("K2")
@pytest.mark.parametrize("stage", repeats.STAGES)
def test_a_driver_killed_at_every_failpoint_of_a_stage_is_gone_on_from(
    drivers: alone.Drivers, tmp_path: Path, whole: Path, stage: str
) -> None:
    the_driver_dies_at_every_border(drivers, tmp_path / "p", whole, stage)


@pytest.mark.slow
@pytest.mark.fault("K1")
@pytest.mark.parametrize("stage", repeats.STAGES)
def test_a_worker_killed_at_every_failpoint_of_a_stage_changes_no_byte(tmp_path: Path, whole: Path, stage: str) -> None:
    file, once = without(tmp_path / "p", whole, stage), tmp_path / "once"
    once.mkdir()
    places = [f"{stage}.{phase}.{border}" for phase in repeats.PHASES[stage] for border in repeats.BORDERS if border != "collected"]
    env = {"PIPELINE_FAILPOINT": ",".join(places), "PIPELINE_FAILPOINT_ONCE": str(once)}
    done = tiny.run(file, *UNTIL, env=env, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in once.iterdir()} == set(places)
    as_whole(tmp_path / "p", whole)


@pytest.mark.slow
@pytest.mark.fault("K3")
def test_a_worker_that_outlives_its_driver_mixes_nothing_into_the_next_run(tmp_path: Path, whole: Path) -> None:
    """It stands still with its files written and its record not; the next driver does its unit again; then it may go on, if it still can."""
    file, once = without(tmp_path / "p", whole, "clean"), tmp_path / "once"
    env = {"PIPELINE_FAILPOINT": "clean.documents.before_record:stop", "PIPELINE_FAILPOINT_ONCE": str(once)}
    driver = subprocess.Popen(
        tiny.command(file, *UNTIL), cwd=tmp_path, env=tiny.environment(env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 300
    while not once.exists():
        assert driver.poll() is None and time.monotonic() < end, "no worker came so far"
        time.sleep(0.1)
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    done = tiny.run(file, *UNTIL)
    assert done.returncode == 0, done.stdout + done.stderr
    for child in children:
        try:
            child.resume()
        except psutil.Error:
            continue
    _, alive = psutil.wait_procs(children, timeout=60)
    assert [child.name() for child in alive] == []
    again = tiny.run(file, *UNTIL)
    assert (again.returncode, "up to date" in again.stdout) == (0, True), again.stdout
    assert repeats.units(tmp_path / "p" / "storage") == repeats.units(whole / "storage")
    assert repeats.digests(tmp_path / "p" / "storage") == repeats.digests(whole / "storage")


@pytest.mark.chaos
@pytest.mark.fault("K1", "K2")
@pytest.mark.parametrize("seed", range(3))
def test_random_kills_of_driver_and_workers_change_no_byte(tmp_path: Path, whole: Path, seed: int) -> None:
    rng = random.Random(seed)
    file = repeats.make(tmp_path / "p")
    for _ in range(12):
        driver = subprocess.Popen(
            tiny.command(file, *UNTIL), cwd=tmp_path, env=tiny.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        patience_s, is_driver = rng.uniform(1, 25), rng.random() < 0.6
        try:
            driver.wait(patience_s)
        except subprocess.TimeoutExpired:
            workers = [child for child in psutil.Process(driver.pid).children(recursive=True) if "ray::" in " ".join(child.cmdline()[:1])]
            victim = driver if is_driver or not workers else rng.choice(workers)
            victim.kill()
            if victim is not driver:
                driver.wait(600)
        if driver.wait() == 0:
            break
    done = tiny.run(file, *UNTIL)
    assert done.returncode == 0, done.stdout + done.stderr
    as_whole(tmp_path / "p", whole)


# ---------------------------------------------------------------- surroundings


@pytest.mark.fault("R1")
def test_other_surroundings_and_another_order_change_no_byte(tmp_path: Path, whole: Path) -> None:
    with alone.Drivers(ELSEWHERE) as there:
        done = there.run(repeats.make(tmp_path), *UNTIL, "cluster.workers=1")
    assert done.code == 0, done.text
    as_whole(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.fault("R1")
@pytest.mark.parametrize(("workers", "env"), [(1, TURKISH), (2, ELSEWHERE), (2, TURKISH), (8, {})])
def test_neither_workers_nor_surroundings_change_a_byte(tmp_path: Path, whole: Path, workers: int, env: dict[str, str]) -> None:
    done = tiny.run(repeats.make(tmp_path), *UNTIL, f"cluster.workers={workers}", env=env, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    as_whole(tmp_path, whole)
