"""SIGKILL of the driver and of a worker in the middle of every stage, then the same command: the same bytes, the same losses.

control       one run with nothing in its way, to pack; `trained` goes on from a copy of it to pretrain
disturbed     the same pipeline with a failpoint in its environment, until it dies; then the same command without
compared      exact artifacts by digest, ledgers and counts; losses bit for bit; no temporary file; MLflow's word for the dead run
"""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.end_to_end import tiny
from tests.end_to_end.conftest import undisturbed

PLACES = ("start", "after_file", "before_record", "after_record")
MIDDLE = {
    "ingest": "ingest.read",
    "clean": "clean.documents",
    "dedup": "dedup.judge",
    "vocabulary": "vocabulary.count",
    "encode": "encode.documents",
}
"""For each data stage a phase that has many units."""
PHASES = {
    "ingest": ("ingest.read",),
    "clean": ("clean.documents", "clean.bitext"),
    "dedup": ("dedup.hash", "dedup.judge", "dedup.texts", "dedup.decide", "dedup.pair_judge"),
    "vocabulary": ("vocabulary.count", "vocabulary.merge", "vocabulary.train", "vocabulary.measure", "vocabulary.parity"),
    "encode": ("encode.documents", "encode.pairs"),
}
TRAINING = ("--until", "pretrain")
EVERY_2 = "stages.pretrain.checkpoint_every=2"
KILLED = -signal.SIGKILL


def kills(folder: Path, *items: str) -> dict[str, str]:
    """An environment in which each of the places kills one process, once."""
    once = folder / "killed"
    once.mkdir(exist_ok=True)
    return {"PIPELINE_FAILPOINT": ",".join(items), "PIPELINE_FAILPOINT_ONCE": str(once)}


def killed(folder: Path) -> set[str]:
    """The places that did kill a process."""
    return {path.name for path in (folder / "killed").iterdir()}


def finished_units(folder: Path, phase: str) -> set[str]:
    """Records of the units of a phase: `stage.phase`."""
    return {path.name for path in (folder / "storage" / "units" / phase.replace(".", "/")).rglob("*.json")}


def statuses(folder: Path) -> dict[str, list[str]]:
    """The status of MLflow's runs: of parents under their name in this program, of children under `<stage>`."""
    with sqlite3.connect(f"file:{folder / 'storage' / 'mlflow' / 'mlflow.db'}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT name, status FROM runs ORDER BY start_time").fetchall()
    found: dict[str, list[str]] = {}
    for name, status in rows:
        found.setdefault(name, []).append(status)
    return found


def as_control(folder: Path, control: Path) -> None:
    """Everything exact is as in the run that nothing disturbed, and nothing half-written is left."""
    assert tiny.exact_digests(folder / "storage") == tiny.exact_digests(control / "storage")
    assert tiny.temporary(folder / "storage") == []
    assert not (folder / "storage" / "pipelines" / "tiny" / "lease.json").exists()


def nothing_runs_in_mlflow(folder: Path, ends: frozenset[str] = frozenset({"FINISHED", "KILLED"})) -> dict[str, list[str]]:
    found = statuses(folder)
    assert {status for group in found.values() for status in group} <= ends, found
    return found


# ---------------------------------------------------------------- data stages


@pytest.mark.fault("K1")
def test_a_worker_killed_in_each_data_stage_changes_no_byte(tmp_path: Path, control: Path) -> None:
    items = [f"{phase}.before_record:kill:2" for phase in MIDDLE.values()]
    done = tiny.run(tiny.make(tmp_path), "--until", "pack", env=kills(tmp_path, *items))
    assert done.returncode == 0, done.stdout + done.stderr
    assert killed(tmp_path) == {item.partition(":")[0] for item in items}
    assert done.stderr.count("a worker died (crash)") + done.stderr.count("worker died (crash), alone") >= len(items)
    as_control(tmp_path, control)


@pytest.mark.slow
@pytest.mark.parametrize("stage", MIDDLE)
@pytest.mark.fault("K1")
def test_a_worker_killed_at_every_place_of_a_stage_changes_no_byte(tmp_path: Path, control: Path, stage: str) -> None:
    items = [f"{phase}.{place}:kill:1" for phase in PHASES[stage] for place in PLACES]
    done = tiny.run(tiny.make(tmp_path), "--until", "pack", env=kills(tmp_path, *items))
    assert done.returncode == 0, done.stdout + done.stderr
    # A phase whose units write no file of their own (their record is all) never passes `after_file`.
    assert killed(tmp_path) >= {item.partition(":")[0] for item in items if "after_file" not in item}
    as_control(tmp_path, control)
    assert nothing_runs_in_mlflow(tmp_path)
    again = tiny.run(tmp_path, "--until", "pack")
    assert (again.returncode, "up to date" in again.stdout) == (0, True)


def driver_dies_and_the_same_command_goes_on(folder: Path, control: Path, phase: str) -> None:
    """The driver dies when the fourth task of a phase has come back, with others on their way."""
    file = tiny.make(folder)
    before = tiny.run(file, "--until", "pack", env=kills(folder, f"{phase}.collected:kill:4"))
    assert before.returncode == KILLED, before.stdout + before.stderr
    assert killed(folder) == {f"{phase}.collected"}
    done_before = finished_units(folder, phase)
    assert 0 < len(done_before) < len(finished_units(control, phase))
    after = tiny.run(file, "--until", "pack")
    assert after.returncode == 0, after.stdout + after.stderr
    stage, _, name = phase.partition(".")
    todo = len(finished_units(control, phase)) - len(done_before)  # only what was unfinished is worked
    lines = [line for line in after.stderr.splitlines() if f"{stage}: {name}: " in line and "units to do" in line]
    assert 0 < sum(int(line.rpartition(f"{name}: ")[2].split()[0]) for line in lines) <= todo
    as_control(folder, control)
    runs = sorted((folder / "storage" / "pipelines" / "tiny" / "runs").iterdir())
    assert [json.loads(run.read_text())["status"] for run in runs] == ["FINISHED"]  # the dead one could write none
    found = nothing_runs_in_mlflow(folder)
    assert [status for name, group in found.items() for status in group if name not in tiny.DATA_STAGES] == ["KILLED", "FINISHED"], found


@pytest.mark.fault("K2")
def test_a_driver_killed_in_the_middle_of_dedup_is_gone_on_from_at_once(tmp_path: Path, control: Path) -> None:
    driver_dies_and_the_same_command_goes_on(tmp_path, control, MIDDLE["dedup"])


@pytest.mark.slow
@pytest.mark.parametrize("stage", [stage for stage in MIDDLE if stage != "dedup"])
@pytest.mark.fault("K2")
def test_a_driver_killed_in_the_middle_of_a_stage_is_gone_on_from_at_once(tmp_path: Path, control: Path, stage: str) -> None:
    driver_dies_and_the_same_command_goes_on(tmp_path, control, MIDDLE[stage])


@pytest.mark.slow
@pytest.mark.fault("K2")
def test_a_driver_killed_between_stages_once_and_again_is_gone_on_from(tmp_path: Path, control: Path) -> None:
    file = tiny.make(tmp_path)
    for item in ("manifest.before:kill:2", "manifest.after:kill:2", "state.after:kill:2"):
        done = tiny.run(file, "--until", "pack", env=kills(tmp_path, item))
        assert done.returncode == KILLED, done.stdout + done.stderr
    assert killed(tmp_path) == {"manifest.before", "manifest.after", "state.after"}
    done = tiny.run(file, "--until", "pack")
    assert done.returncode == 0, done.stdout + done.stderr
    as_control(tmp_path, control)
    nothing_runs_in_mlflow(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "count"), [("publish.before_sync", 4), ("publish.before_rename", 8), ("publish.after_rename", 12)])
@pytest.mark.fault("K1", "K2")
def test_whoever_dies_while_it_publishes_leaves_nothing_that_disturbs(tmp_path: Path, control: Path, place: str, count: int) -> None:
    file = tiny.make(tmp_path)
    # The first process that comes so far, driver or worker.
    done = tiny.run(file, "--until", "pack", env=kills(tmp_path, f"{place}:kill:{count}"))
    assert done.returncode in (0, KILLED), done.stdout + done.stderr
    assert place in killed(tmp_path)
    done = tiny.run(file, "--until", "pack")
    assert done.returncode == 0, done.stdout + done.stderr
    as_control(tmp_path, control)


@pytest.mark.slow
def test_a_killed_drivers_ray_dies_and_does_not_disturb_the_next_run(tmp_path: Path, control: Path) -> None:
    file = tiny.make(tmp_path)
    process = subprocess.Popen(
        tiny.command(file, "--until", "pack"), cwd=tmp_path, env=tiny.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 240
    while len(finished_units(tmp_path, "clean.documents")) < 2:
        assert process.poll() is None and time.monotonic() < end, "it never came to clean"
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert any("raylet" in child.name() for child in children if child.is_running())
    after = tiny.run(file, "--until", "pack")
    assert after.returncode == 0, after.stdout + after.stderr
    as_control(tmp_path, control)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert [child.name() for child in alive] == []


# ---------------------------------------------------------------- pretraining


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, control: Path) -> Path:
    """The control, gone on to pretrain by a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("trained") / "p"
    shutil.copytree(control, folder)
    done = tiny.run(folder, *TRAINING, EVERY_2, env=undisturbed(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(tiny.losses(folder / "storage")) == tiny.settings()["stages"]["pretrain"]["steps"]
    return folder


@pytest.fixture
def copied(tmp_path: Path, control: Path) -> Path:
    """A copy of the control, where only pretrain is left to do."""
    folder = tmp_path / "p"
    shutil.copytree(control, folder)
    return folder


def every_loss(folder: Path) -> dict[int, list[float]]:
    """All losses recorded for each step, those of steps that were trained twice too."""
    found: dict[int, list[float]] = {}
    for path in sorted(folder.glob("storage/work/pretrain/*/spool/*.json")):
        for record in json.loads(path.read_text()):
            found.setdefault(record["step"], []).append(record["loss"])
    return found


def weights(folder: Path) -> dict[str, str]:
    """sha256 of the final checkpoint's files."""
    files = tiny.manifests(folder / "storage")["pretrain"]["content"]["outputs"]["checkpoint"]["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}


def as_trained(folder: Path, trained: Path, again: Mapping[int, int], ends: frozenset[str] = frozenset({"FINISHED", "KILLED"})) -> None:
    """The same losses bit for bit, the same weights; the steps in `again` were trained so often, to the same loss each time."""
    assert tiny.losses(folder / "storage") == tiny.losses(trained / "storage")
    found = every_loss(folder)
    assert {step: len(losses) for step, losses in found.items() if len(losses) > 1} == again
    assert all(len(set(losses)) == 1 for losses in found.values())
    assert weights(folder) == weights(trained) != {}
    as_control(folder, trained)
    nothing_runs_in_mlflow(folder, ends)


def stopped_at_step_5(copied: Path) -> tuple[subprocess.Popen[bytes], list[psutil.Process], Path]:
    """A driver whose rank 0 stands still after step 5, with a checkpoint of step 4; its children, and the file it prints to."""
    output = copied / "output"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            tiny.command(copied / "pipeline.yaml", *TRAINING, EVERY_2), cwd=copied, stdout=sink, stderr=subprocess.STDOUT,
            env=tiny.environment({"PIPELINE_FAILPOINT": "curve.after_append:hang:5", "PIPELINE_FAILPOINT_ONCE": str(copied / "once")}),
        )  # fmt: skip
    end = time.monotonic() + 300
    while not (copied / "once").exists():
        assert process.poll() is None and time.monotonic() < end, "it never came to step 5"
        time.sleep(0.1)
    return process, psutil.Process(process.pid).children(recursive=True), output


@pytest.mark.slow
@pytest.mark.fault("K2")
def test_a_driver_killed_while_it_trains_goes_on_from_the_last_checkpoint_bit_for_bit(copied: Path, trained: Path) -> None:
    process, children, _ = stopped_at_step_5(copied)
    process.kill()
    process.wait()
    after = tiny.run(copied, *TRAINING, EVERY_2)
    assert after.returncode == 0, after.stdout + after.stderr
    assert "going on from step-00000004" in after.stderr
    as_trained(copied, trained, {5: 2})
    found = statuses(copied)
    assert found["pretrain"] == ["KILLED", "FINISHED"]
    _, alive = psutil.wait_procs(children, timeout=60)  # the rank that stands still, too
    assert [child.name() for child in alive] == []


def goes_on_from_step_4(copied: Path, trained: Path, children: list[psutil.Process], ends: frozenset[str]) -> None:
    """Nothing of the run before lives, and the same command gives what an undisturbed run gave."""
    _, alive = psutil.wait_procs(children, timeout=60)
    # Ray's own agent looks only now and then whether its node lives.
    assert [child.name() for child in alive if "Agent" not in child.name()] == []
    after = tiny.run(copied, *TRAINING, EVERY_2)
    assert after.returncode == 0, after.stdout + after.stderr
    assert "going on from step-00000004" in after.stderr
    as_trained(copied, trained, {5: 2}, ends)


@pytest.mark.slow
@pytest.mark.fault("K6")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_ends_with_its_code_and_the_next_goes_on(copied: Path, trained: Path, number: int, code: int) -> None:
    process, children, output = stopped_at_step_5(copied)
    process.send_signal(number)
    assert process.wait(120) == code, output.read_text()[-3000:]
    assert output.read_text().splitlines()[-1] == f"PIPELINE_EXIT={code}"
    goes_on_from_step_4(copied, trained, children, frozenset({"FINISHED", "KILLED"}))


@pytest.mark.slow
@pytest.mark.fault("K11")
def test_a_run_whose_cluster_lost_its_head_ends_in_bounded_time_and_the_next_goes_on(copied: Path, trained: Path) -> None:
    process, children, output = stopped_at_step_5(copied)
    (head,) = [child for child in children if child.name() == "gcs_server"]
    head.kill()
    assert process.wait(240) not in (0, KILLED), output.read_text()[-3000:]
    goes_on_from_step_4(copied, trained, children, frozenset({"FINISHED", "FAILED", "KILLED"}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("item", "going_on", "again"),
    [
        ("curve.after_append:kill:3", "step-00000002", {3: 2}),
        ("checkpoint.before_rename:kill:2", "step-00000002", {3: 2, 4: 2}),
        ("checkpoint.after_rename:kill:2", "step-00000004", {}),
    ],
)
@pytest.mark.fault("K1", "K7")
def test_a_rank_killed_while_it_trains_or_saves_goes_on_bit_for_bit(
    copied: Path, trained: Path, item: str, going_on: str, again: dict[int, int]
) -> None:
    done = tiny.run(copied, *TRAINING, EVERY_2, env=kills(copied, item), timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert killed(copied) == {item.partition(":")[0]}
    assert f"going on from {going_on}" in done.stderr, done.stderr
    as_trained(copied, trained, again)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(copied: Path, trained: Path) -> None:
    env = {"PIPELINE_FAILPOINT": "curve.after_append:kill:5", "PIPELINE_FAILPOINT_ONCE": str(copied / "once")}
    dead = tiny.run(copied, *TRAINING, EVERY_2, "stages.pretrain.max_restarts=0", env=env, timeout=600)
    assert dead.returncode == 4, dead.stdout + dead.stderr
    (last,) = copied.glob("storage/work/pretrain/*/checkpoints/step-00000004")
    victim = max(last.glob("*.safetensors"))
    tiny.flip(victim)
    after = tiny.run(copied, *TRAINING, EVERY_2)
    assert after.returncode == 0, after.stdout + after.stderr
    assert victim.name in after.stderr and "the checkpoint before is taken" in after.stderr, after.stderr
    assert "going on from step-00000002" in after.stderr
    as_trained(copied, trained, {3: 2, 4: 2, 5: 2}, frozenset({"FINISHED", "FAILED"}))  # the gang was not to be started again
