"""Gangs on a local Ray: what the ranks see, what comes back, and what each way of dying is called."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.cluster import Cluster, ClusterSettings, NodeLost, TaskRaised, WorkerDied
from pipeline.errors import EmptyCorpusError, PreflightError, StageError

HERE = "tests.test_gang"


# Entries, run on the ranks


def add_up(gang: Any, argument: dict[str, Any]) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    total = torch.tensor([gang.rank + 1])
    dist.all_reduce(total)
    gang.checkpointed()
    is_preempted = gang.preempted()
    gang.checkpointed()
    return {
        "rank": gang.rank,
        "world_size": gang.world_size,
        "local_rank": gang.local_rank,
        "total": int(total),
        "text": argument["text"] * (gang.rank + 1),
        "threads": torch.get_num_threads(),
        "interface": os.environ.get("GLOO_SOCKET_IFNAME"),
        "folder": str(Path.cwd()),
        "preempted": is_preempted,
    }


def fail(gang: Any, argument: dict[str, Any]) -> None:
    import torch
    import torch.distributed as dist

    (Path(argument["folder"]) / f"{gang.rank}").write_text(str(os.getpid()))
    if gang.rank == argument["rank"]:
        time.sleep(0.5)
        how = argument["how"]
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif how == "pipeline":
            raise EmptyCorpusError("nothing to train on", kept=3)
        elif how == "other":
            raise KeyError("surprise")
        elif how == "exit":
            raise SystemExit(4)
    dist.all_reduce(torch.zeros(1))


def wait_for_ever(gang: Any, argument: dict[str, Any]) -> None:
    (Path(argument["folder"]) / f"{gang.rank}").write_text(str(os.getpid()))
    while True:
        time.sleep(0.1)


def read_back(gang: Any, argument: dict[str, Any]) -> int:
    for step in range(argument["steps"]):
        if gang.rank == 0:
            (Path(argument["folder"]) / f"{step}").touch()
        time.sleep(0.3)
    return int(argument["steps"])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster.open(ClusterSettings(workers=2), temp_dir=tmp_path_factory.mktemp("ray")) as opened:
        yield opened


def pids(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in folder.iterdir()]


def all_gone(folder: Path) -> bool:
    assert pids(folder)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if not any(psutil.pid_exists(pid) for pid in pids(folder)):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ranks_meet_and_their_values_come_back_in_order(cluster: Cluster, workers: int) -> None:
    handler = signal.getsignal(signal.SIGINT)
    values = cluster.launch_gang(f"{HERE}:add_up", {"text": "ñ\u2028"}, workers=workers, name="pretrain-abc-1", deadline_s=60)
    assert signal.getsignal(signal.SIGINT) is handler
    assert [value["rank"] for value in values] == list(range(workers))
    for rank, value in enumerate(values):
        assert value["world_size"] == workers
        assert value["local_rank"] == rank
        assert value["total"] == workers * (workers + 1) // 2
        assert value["text"] == "ñ\u2028" * (rank + 1)
        assert value["threads"] == 1
        assert value["interface"] == next(name for name, found in psutil.net_if_addrs().items() if found[0].address == "127.0.0.1")
        assert value["folder"] == str(Path.cwd())
        assert value["preempted"] is False


def test_the_driver_polls_on_its_own_thread_and_once_after_the_end(cluster: Cluster, tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []
    values = cluster.launch_gang(
        f"{HERE}:read_back",
        {"folder": str(tmp_path), "steps": 8},
        workers=1,
        name="poll",
        deadline_s=60,
        on_poll=lambda: seen.append((len(list(tmp_path.iterdir())), threading.current_thread().name)),
    )
    assert values == [8]
    assert len(seen) >= 3
    assert seen[-1][0] == 8
    assert {name for _, name in seen} == {threading.current_thread().name}
    assert [count for count, _ in seen] == sorted(count for count, _ in seen)


@pytest.mark.slow
def test_an_error_raised_on_purpose_beats_the_complaints_of_the_other_ranks(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(EmptyCorpusError, match="nothing to train on") as caught:
        cluster.launch_gang(
            f"{HERE}:fail", {"folder": str(tmp_path), "rank": 1, "how": "pipeline"}, workers=2, name="purpose", deadline_s=60
        )
    assert type(caught.value) is EmptyCorpusError
    assert caught.value.attributes == {"kept": 3}
    assert all_gone(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "says"), [("other", "KeyError: 'surprise'"), ("exit", "SystemExit: 4")])
def test_another_exception_names_rank_and_line(cluster: Cluster, tmp_path: Path, how: str, says: str) -> None:
    with pytest.raises(TaskRaised) as caught:
        cluster.launch_gang(f"{HERE}:fail", {"folder": str(tmp_path), "rank": 1, "how": how}, workers=2, name="other", deadline_s=60)
    assert "rank 1" in str(caught.value)
    assert says in str(caught.value)
    assert "in fail" in caught.value.traceback


@pytest.mark.fault("K1")
@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_rank_is_a_dead_worker_and_the_next_launch_works(cluster: Cluster, tmp_path: Path, rank: int) -> None:
    with pytest.raises(WorkerDied) as caught:
        cluster.launch_gang(f"{HERE}:fail", {"folder": str(tmp_path), "rank": rank, "how": "kill"}, workers=2, name="kill", deadline_s=60)
    assert caught.value.reason == "crash"
    assert f"rank {rank}" in str(caught.value)
    assert all_gone(tmp_path)
    assert len(cluster.launch_gang(f"{HERE}:add_up", {"text": ""}, workers=2, name="kill", deadline_s=60)) == 2


@pytest.mark.slow
@pytest.mark.fault("K10")
def test_a_stopped_rank_is_found_within_the_deadline_and_killed(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(WorkerDied) as caught:
        cluster.launch_gang(f"{HERE}:fail", {"folder": str(tmp_path), "rank": 1, "how": "stop"}, workers=2, name="stop", deadline_s=15)
    assert caught.value.reason in ("hung", "crash")
    stopped_at_s = (tmp_path / "1").stat().st_mtime  # a start takes what the machine takes
    assert time.time() - stopped_at_s < 60
    assert all_gone(tmp_path)
    assert len(cluster.launch_gang(f"{HERE}:add_up", {"text": ""}, workers=2, name="stop", deadline_s=60)) == 2


@pytest.mark.slow
@pytest.mark.fault("K10")
def test_no_progress_by_the_drivers_measure_is_a_hang(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(WorkerDied, match="no progress for 10 s") as caught:
        cluster.launch_gang(
            f"{HERE}:wait_for_ever",
            {"folder": str(tmp_path)},
            workers=1,
            name="hang",
            deadline_s=10,
            on_poll=lambda: 7 if any(tmp_path.iterdir()) else None,
        )
    assert caught.value.reason == "hung"
    assert all_gone(tmp_path)


@pytest.mark.slow
@pytest.mark.fault("K6")
def test_an_interruption_stops_the_gang_and_frees_its_places(cluster: Cluster, tmp_path: Path) -> None:
    def interrupt() -> None:
        if len(list(tmp_path.iterdir())) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)

    def handle(number: int, frame: object) -> None:
        raise InterruptedError("asked to stop")

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(InterruptedError):
            cluster.launch_gang(
                f"{HERE}:wait_for_ever", {"folder": str(tmp_path)}, workers=2, name="stop", deadline_s=60, on_poll=interrupt
            )
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert all_gone(tmp_path)
    assert len(cluster.launch_gang(f"{HERE}:add_up", {"text": ""}, workers=2, name="stop", deadline_s=60)) == 2


def test_a_gang_too_large_for_the_cluster_is_refused_before_it_starts(cluster: Cluster) -> None:
    with pytest.raises(PreflightError, match=r"pretrain needs 3 worker\(s\)"):
        cluster.launch_gang(f"{HERE}:add_up", {}, workers=3, name="pretrain")


def test_the_cause_of_a_failure_speaks_before_its_consequences() -> None:
    import ray.train
    from ray import exceptions

    from pipeline.gang import PeerLostError, classify

    peer = PeerLostError("Connection closed by peer")
    other = TaskRaised("KeyError", error=StageError("KeyError"), traceback="")
    purpose = EmptyCorpusError("nothing is left")
    dead = exceptions.ActorDiedError()
    lost = exceptions.RayActorError(error_msg="The actor died because its node has died.")
    ladder: list[tuple[BaseException, type[StageError]]] = [
        (peer, WorkerDied), (other, TaskRaised), (purpose, EmptyCorpusError), (dead, WorkerDied), (lost, NodeLost)
    ]  # fmt: skip
    for height, (cause, kind) in enumerate(ladder):
        below = [failure for failure, _ in ladder[:height]]
        for failures in ([*below, cause], [cause, *below]):
            error = ray.train.WorkerGroupError("failed", dict(enumerate(failures)))
            assert type(classify("x", error)) is kind
