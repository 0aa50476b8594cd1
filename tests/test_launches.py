"""A rank of an earlier launch that lives on writes nothing that counts; a storage that a node does not share is refused at the start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster import ClusterSettings, Node, WorkerDied, answers_at
from pipeline.curve import Curve
from pipeline.errors import PreflightError
from pipeline.gang_sizes import world_size
from pipeline.jobs import checkpoints, run_gang
from pipeline.launches import Launch, SupersededError
from pipeline.retention import Retention
from pipeline.saving import save_checkpoint
from pipeline.storage import Storage
from pipeline.training.checkpoint import INDEX, CheckpointMeta, read_meta
from pipeline.training.deepspeed_config import EngineSettings
from pipeline.training.engine import Alone, Engine
from tests.training.cases import tiny_module


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.at(str(tmp_path / "storage"), "attempt")


@pytest.fixture(params=["folder", "object store"])
def either(request: pytest.FixtureRequest, storage: Storage) -> Storage:
    return storage if request.param == "folder" else Storage.at(f"memory://{request.node.name}", "attempt")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.start(tiny_module(seed=1), EngineSettings(0, False, "fp32", 4, 1, 1e-3, (0.9, 0.98), 1e-6, 0.01, 1.0), Alone())


def save(engine: Engine, storage: Storage, launch: Launch, step: int) -> None:
    meta = CheckpointMeta(step, 8 * step, "fp32", 1, 0)
    save_checkpoint(storage, "work", step, engine, meta, Alone(), keep=Retention(2), launch=launch)


@pytest.mark.fault("K3")
def test_a_rank_of_an_earlier_launch_makes_no_checkpoint_and_touches_none_of_the_next(either: Storage, engine: Engine) -> None:
    former, latter = Launch(either, "work", "a-1"), Launch(either, "work", "a-2")
    former.claim()
    save(engine, either, former, 10)
    latter.claim()
    save(engine, either, latter, 20)
    before = {path: either.read(path) for path in either.list("work") if "unfinished" not in path}
    for step in (20, 30):
        with pytest.raises(SupersededError, match="a-1 was superseded by a-2"):
            save(engine, either, former, step)
    assert {path: either.read(path) for path in either.list("work") if "unfinished" not in path} == before
    if not either.is_local:  # what went up stays here no longer
        assert sorted(path.name for path in (Path(either.cache) / "work").iterdir()) == [
            "unfinished-a-1-step-00000020",
            "unfinished-a-1-step-00000030",
        ]
    assert checkpoints(either, "work") == ["work/step-00000010", "work/step-00000020"]


@pytest.mark.fault("K3")
def test_two_launches_that_write_the_same_step_at_once_write_into_folders_of_their_own(storage: Storage, engine: Engine) -> None:
    former, latter = Launch(storage, "work", "a-1"), Launch(storage, "work", "a-2")
    latter.claim()
    base = Path(storage.root) / "work"
    half = base / former.unfinished("step-00000020")  # a rank of the former is in the midst of it
    half.mkdir(parents=True)
    (half / "model-00000-of-00001.safetensors").write_bytes(b"half")
    (half / INDEX).write_text("{}")
    save(engine, storage, latter, 20)
    assert read_meta(base / "step-00000020").step == 20
    assert (base / "step-00000020" / "model-00000-of-00001.safetensors").stat().st_size > 1000
    assert (half / "model-00000-of-00001.safetensors").read_bytes() == b"half"


def test_a_node_that_reads_another_storage_is_refused_by_name_and_a_late_one_is_waited_for(tmp_path: Path, storage: Storage) -> None:
    Launch(storage, "work", "a-1").claim()
    Launch(storage, "work", "a-1").meet("here", 0)
    elsewhere = Storage.at(str(tmp_path / "elsewhere"))
    with pytest.raises(PreflightError, match=r"as node far sees it holds nothing of this run.*shared folder or an object store"):
        Launch(elsewhere, "work", "a-1").meet("far", 0.2)
    with pytest.raises(PreflightError, match=r"holds another launch \(a-1; this is a-2\)"):
        Launch(storage, "work", "a-2").meet("here", 0.2)

    class Late(Launch):
        looks = 0

        def _found(self) -> str | None:
            Late.looks += 1
            return super()._found() if Late.looks > 2 else None

    Late(storage, "work", "a-1").meet("here", 5)
    assert Late.looks == 3


class FakeCluster:
    """Stands for a cluster whose gang dies at its first two launches; what a launch is given is kept."""

    settings = ClusterSettings(workers=(1, 3))
    workers, gpus_per_worker = 3, 0.0

    def __init__(self, free: list[int]) -> None:
        self.free = free
        self.launched: list[tuple[int, Mapping[str, Any]]] = []

    def free_nodes(self) -> list[Node]:
        return [Node(str(number), str(number), 1.0, 0.0, 1e9) for number in range(self.free.pop(0))]

    def launch_gang(self, entry: str, argument: Mapping[str, Any], *, workers: int, **_: Any) -> list[Any]:
        self.launched.append((workers, argument))
        if len(self.launched) < 3:
            raise WorkerDied("gone", reason="crash")
        return [{"about": {"interrupted": False}}]


def test_every_launch_has_a_token_of_its_own_and_the_ranks_that_there_are_places_for(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.jobs.time.sleep", lambda _: None)
    cluster: Any = FakeCluster([3, 2, 1])
    run_gang(
        cluster, storage, "work", "a:b", {}, global_batch=12, workers=(1, 3), name="pretrain-x", max_restarts=2, deadline_s=1,
        on_poll=lambda: None, fence=lambda: None, curve=Curve(storage, "spool"), steps=1,
    )  # fmt: skip
    assert [workers for workers, _ in cluster.launched] == [3, 2, 1]
    tokens = [argument["launch"]["token"] for _, argument in cluster.launched]
    assert tokens == ["attempt-1", "attempt-2", "attempt-3"]
    assert json.loads(storage.read("work/launch.json")) == {"token": "attempt-3"}
    for token in tokens[:2]:
        with pytest.raises(SupersededError):
            Launch(storage, "work", token).require()
    Launch(storage, "work", tokens[2]).require()


@pytest.mark.parametrize(("free", "batch", "ranks"), [(3, 12, 3), (2, 12, 2), (3, 8, 2), (1, 12, 1), (3, 7, 1)])
def test_ranks_are_the_largest_divisor_of_the_batch_that_has_places(free: int, batch: int, ranks: int) -> None:
    cluster: Any = FakeCluster([free])
    assert world_size(cluster, (1, 3), batch) == ranks


def test_fewer_free_places_than_the_least_are_refused() -> None:
    cluster: Any = FakeCluster([1])
    with pytest.raises(PreflightError, match="the cluster has places for 1"):
        world_size(cluster, (2, 3), 12)


def test_free_nodes_leave_out_what_is_in_use_after_waiting_for_it(cluster: Any) -> None:
    (node,) = cluster.free_nodes()
    assert node.cpus == 2
    handle = cluster.submit("time:sleep", 4)
    while (found := cluster.free_nodes(0))[0].cpus == 2:
        pass
    assert [node.cpus for node in found] == [1]
    assert [node.cpus for node in cluster.free_nodes(30)] == [2]
    assert cluster.result(handle) is None


def test_a_port_where_nothing_listens_does_not_answer() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answers_at("127.0.0.1", port)
    assert not answers_at("127.0.0.1", port)


@pytest.mark.fault("K3")
def test_a_folder_that_a_former_rank_still_writes_into_holds_up_no_launch(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(self: Storage, path: str) -> None:
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr("pipeline.jobs.time.sleep", lambda _: None)
    storage.write("work/unfinished-former-1-step-00000020/x", b"half")
    for patched in (True, False):
        with monkeypatch.context() as patch:
            if patched:
                patch.setattr(Storage, "remove", busy)
            cluster: Any = FakeCluster([3, 3, 3])
            run_gang(
                cluster, storage, "work", "a:b", {}, global_batch=12, workers=(1, 3), name="pretrain-x", max_restarts=2, deadline_s=1,
                on_poll=lambda: None, fence=lambda: None, curve=Curve(storage, "spool"), steps=1,
            )  # fmt: skip
        assert len(cluster.launched) == 3
        assert storage.exists("work/unfinished-former-1-step-00000020") == patched
