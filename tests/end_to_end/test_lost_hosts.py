"""Training on three hosts by `ray job submit`, of which one is killed, cut off, or taken away, or on which a rank stands still.

undisturbed   the same training on one rank of a local Ray, from a copy of the same data stages: the curve that the others must follow
disturbed     on three hosts; when it has trained for a while, something happens to a host or to a rank on it
compared      the launches and their ranks; where the next one went on; steps trained twice with themselves, all that follow with the undisturbed

Dropout is a function of seed, step and row, so that the losses agree at any number of ranks to the accuracy of sums in another order.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end import hosts, tiny
from tests.end_to_end.conftest import undisturbed as environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(hosts.forbidden() is not None, reason=hosts.forbidden() or ""),
]
STEPS, EVERY, DISTURBED_AT = 120, 10, 25
TOLERANCE = 1e-4
WITHIN_S = 120.0
PRETRAIN = {"steps": STEPS, "global_batch": 12, "zero": 2, "checkpoint_every": EVERY, "keep": 3, "max_restarts": 2}


@dataclass
class Case:
    """A job on the hosts, and the storage it trains in."""

    machines: hosts.RayHosts
    job: hosts.Job
    storage: Path

    def chunks(self) -> list[Path]:
        """The records so far, in the order of their writing."""
        return sorted(path for path in self.storage.glob("work/pretrain/*/spool/*.json") if not path.name.startswith("tmp."))

    def records(self, chunks: list[Path]) -> list[tuple[int, float]]:
        """Step and loss of each."""
        return [
            (int(record["step"]), float(record["loss"])) for path in chunks for record in json.loads(path.read_text()) if "loss" in record
        ]

    def token(self) -> str | None:
        """That of the launch that may write."""
        found = list(self.storage.glob("work/pretrain/*/checkpoints/launch.json"))
        return str(json.loads(found[0].read_text())["token"]) if found else None

    def until(self, condition: Callable[[], bool], what: str, timeout: float) -> float:
        """Wait; returns the seconds it took."""
        start = time.monotonic()
        while not condition():
            assert self.job.process.poll() is None, f"the job ended before {what}:\n{self.job.text()[-5000:]}"
            assert time.monotonic() - start < timeout, f"{what}: not within {timeout:g} s:\n{self.job.text()[-5000:]}"
            time.sleep(0.2)
        return time.monotonic() - start

    def launches(self) -> list[tuple[int, int]]:
        """Ranks of each launch by the log, and the step after which it began."""
        found = re.findall(r"pretrain-\w+: (\d) rank\(s\)(?:, going on from step-(\d+))?", self.job.text())
        return [(int(ranks), int(step or 0)) for ranks, step in found]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is sent: program, text and pipeline file."""
    folder = tmp_path_factory.mktemp("project") / "p"
    tiny.make(folder, stages={"pretrain": PRETRAIN}, cluster={"workers": [1, 3], "deadline_s": 60})
    for package in ("pipeline", "stages"):
        shutil.copytree(tiny.ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory, control: Path) -> dict[int, float]:
    """Loss of each step when nothing happens, on one rank."""
    folder = tmp_path_factory.mktemp("undisturbed") / "p"
    shutil.copytree(control, folder)
    tiny.make(folder, stages={"pretrain": PRETRAIN}, cluster={"workers": 1})
    done = tiny.run(folder, "--until", "pretrain", env=environment(folder), timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(tiny.losses(folder / "storage"))
    assert sorted(found) == list(range(1, STEPS + 1))
    return found


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hosts.RayHosts]:
    with hosts.RayHosts.open(3, tmp_path_factory.mktemp("hosts")) as opened:
        yield opened


@pytest.fixture
def case(machines: hosts.RayHosts, project: Path, control: Path, tmp_path: Path) -> Case:
    """A training on three hosts that has come some steps beyond a checkpoint."""
    machines.restore()
    storage = tmp_path / "storage"
    shutil.copytree(control / "storage", storage)
    found = Case(machines, machines.submit(project, "pipeline.yaml", f"storage={storage}", "--until", "pretrain"), storage)
    found.until(lambda: len(found.records(found.chunks())) >= DISTURBED_AT, f"step {DISTURBED_AT}", 400)
    assert found.launches() == [(3, 0)]
    assert [len(machines.ranks(host)) for host in range(3)] == [1, 1, 1]
    return found


def goes_on(case: Case, within_s: float, disturb: Callable[[], object]) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Disturb it and wait for the end; returns the records of the launch before and of that after.

    The time counts from the disturbance to the first record of the next launch.
    """
    before_token = case.token()
    assert before_token is not None
    started_s = time.monotonic()
    disturb()
    case.until(lambda: case.token() != before_token, "the next launch", within_s)
    first = len(case.chunks())
    case.until(lambda: len(case.chunks()) > first, "a record of the next launch", max(0.0, within_s - (time.monotonic() - started_s)))
    print(f"{case.storage.parent.name}: {time.monotonic() - started_s:.1f} s to the next record")
    assert case.job.wait(600) == 0, case.job.text()[-5000:]
    chunks = case.chunks()
    return case.records(chunks[:first]), case.records(chunks[first:])


def joins(before: list[tuple[int, float]], after: list[tuple[int, float]], began: int, curve: dict[int, float]) -> None:
    """The second launch goes on behind `began`, and its steps have the losses they had before and would have had undisturbed."""
    assert [step for step, _ in before] == list(range(1, len(before) + 1))
    assert [step for step, _ in after] == list(range(began + 1, STEPS + 1))
    twice = [(loss, dict(before)[step]) for step, loss in after if step in dict(before)]
    assert len(twice) == len(before) - began
    for loss, expected in [*twice, *((loss, curve[step]) for step, loss in (*before, *after[:20]))]:
        assert loss == pytest.approx(expected, rel=TOLERANCE)


def ended_whole(case: Case) -> dict[str, Any]:
    """No leftovers, and the checkpoint that was published is the last one; returns what was said of the training."""
    assert tiny.temporary(case.storage) == []
    content = tiny.manifests(case.storage)["pretrain"]["content"]
    assert {name for name in content["outputs"]["checkpoint"]["files"] if name.endswith("checkpoint.json")} == {"final/checkpoint.json"}
    return dict(content["counts"]["training"])


@pytest.mark.fault("K4")
@pytest.mark.parametrize("how", ["kill", "cut"])
def test_training_goes_on_with_two_hosts_after_one_was_lost(case: Case, curve: dict[int, float], how: str) -> None:
    lose = {"kill": case.machines.network.kill, "cut": case.machines.network.cut}[how]
    before, after = goes_on(case, WITHIN_S, lambda: lose(2))
    (ranks, _), (left, began) = case.launches()
    assert (ranks, left) == (3, 2)
    assert 0 < began == len(before) - len(before) % EVERY  # the last whole one
    joins(before, after, began, curve)
    assert ended_whole(case)["world_size"] == 2
    assert len(case.machines.alive()) == 2


@pytest.mark.fault("K10")
def test_a_rank_that_stands_still_is_found_by_the_deadline(case: Case, curve: dict[int, float]) -> None:
    (rank,) = case.machines.ranks(1)
    # 60 s to find it, half of that to know that its node lives, and the start.
    before, after = goes_on(case, 60 + 30 + WITHIN_S, lambda: os.kill(rank, signal.SIGSTOP))
    (ranks, _), (again, began) = case.launches()
    assert (ranks, again) == (3, 3)
    assert 0 < began == len(before) - len(before) % EVERY
    joins(before, after, began, curve)
    assert not hosts.started(rank)
    assert ended_whole(case)["world_size"] == 3


@pytest.mark.fault("K5")
def test_a_host_that_is_taken_away_costs_no_step_and_no_restart(case: Case, curve: dict[int, float]) -> None:
    before, after = goes_on(case, WITHIN_S, lambda: case.machines.drain(2, 300))
    (ranks, _), (left, began) = case.launches()
    assert (ranks, left) == (3, 2)
    assert began == len(before)  # it saved a checkpoint for the purpose
    joins(before, after, began, curve)
    assert "started again from the last whole checkpoint" not in case.job.text()
    ended_whole(case)
    (node,) = [host for host in range(3) if case.machines.network.addresses[host] not in case.machines.alive().values()]
    assert node == 2
    case.machines.network.kill(2)  # as the cloud does; a drained node takes no work and would disturb the next test
