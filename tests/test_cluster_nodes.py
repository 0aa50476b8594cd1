"""A Ray of several nodes, held by another process as a user's cluster would be."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster import Cluster, ClusterSettings, NodeLost
from pipeline.errors import PreflightError

pytestmark = pytest.mark.cluster


NODES = """
import json, os, sys, time
import ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = {}
print(json.dumps({"address": cluster.address}), flush=True)
for line in sys.stdin:
    command, name = line.split()
    if command == "add":
        nodes[name] = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
    elif command == "drain":
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + 60) * 1000)
        print(GcsClient(cluster.address).drain_node(nodes[name].node_id, reason, "preempted", deadline_ms), file=sys.stderr, flush=True)
    elif command == "kill":
        cluster.remove_node(nodes.pop(name), allow_graceful=False)
    print("done", flush=True)
cluster.shutdown()
"""


ENTRIES = """
import time

def meet(gang, argument):
    import os
    import ray
    import torch
    import torch.distributed as dist
    total = torch.ones(1)
    dist.all_reduce(total)
    node = ray.get_runtime_context().get_node_id()
    return {"total": int(total), "node": node, "interface": os.environ["GLOO_SOCKET_IFNAME"]}

def train(gang, argument):
    import pathlib
    if gang.rank == 0:
        pathlib.Path(argument["started"]).touch()
    for step in range(600):
        time.sleep(0.2)
        if gang.preempted():
            gang.checkpointed()
            return {"step": step}
    return {"step": None}
"""


class Machines:
    """A Ray of several nodes that another process holds, as a user's cluster would be."""

    def __init__(self, folder: Path) -> None:
        token = folder / "token"
        token.write_text("1" * 64)
        token.chmod(0o600)
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        child = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
        (folder / "entries").mkdir()
        (folder / "entries" / "entries.py").write_text(ENTRIES)
        child |= self.environment | {"HOME": str(folder), "PYTHONPATH": str(folder / "entries"), "RAY_health_check_timeout_ms": "2000"}
        # It runs from another folder and without our path: the code must come from the driver.
        self.process = subprocess.Popen(
            [sys.executable, "-c", NODES],
            env=child,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = str(json.loads(self.process.stdout.readline())["address"])

    def do(self, command: str, name: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command} {name}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        finally:
            self.process.kill()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets, which pytest's is not."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def machines(short_folder: Path, monkeypatch: pytest.MonkeyPatch, pool: Any) -> Iterator[Machines]:
    pool.close()  # it would put back the environment of its own start when the joined cluster is opened
    held = Machines(short_folder)
    for name, value in held.environment.items():
        monkeypatch.setenv(name, value)
    try:
        yield held
    finally:
        held.close()


@pytest.mark.fault("K4")
def test_a_joined_cluster_gets_the_code_outlives_a_lost_node_and_is_left_running(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.do("add", "a")
    machines.do("add", "b")
    token = tmp_path / "token"
    token.write_text("written by the driver")
    with Cluster.open(ClusterSettings(address=machines.address)) as cluster:
        assert not cluster.is_local
        assert cluster.workers == 2
        assert len(cluster.nodes()) == 3
        with pytest.raises(PreflightError, match="the cluster can hold 2"):
            cluster.require(workers=3)
        version = importlib.metadata.version("pyarrow")
        cluster.handshake({"pyarrow": version}, "os.path:getsize", str(token))
        with pytest.raises(PreflightError, match=f"has pyarrow {version}, here it is 0.0.1") as caught:
            cluster.handshake({"pyarrow": "0.0.1"}, "os.path:getsize", str(token))
        assert str(caught.value).count("has pyarrow") == 3
        monkeypatch.setenv("ONLY_HERE", "x")
        with pytest.raises(PreflightError, match="reads another storage: it finds None, the driver wrote 'x'"):
            cluster.handshake({}, "os:getenv", "ONLY_HERE")

        handles = [cluster.submit("time:sleep", seconds, label=f"unit {seconds}") for seconds in (40, 41)]
        time.sleep(3)
        machines.do("kill", "a")
        (lost,) = cluster.wait(handles, timeout_s=30)
        with pytest.raises(NodeLost, match=lost.label):
            cluster.result(lost)
        (kept,) = set(handles) - {lost}
        assert cluster.result(kept) is None
        # The rest of the cluster still works.
        assert cluster.result(cluster.submit("os.path:getsize", str(token))) == len("written by the driver")
    with Cluster.open(ClusterSettings(address=machines.address, workers=(1, 7))) as cluster:
        assert cluster.workers == 7
    assert machines.process.poll() is None


@pytest.mark.fault("K4")
def test_a_gang_spans_nodes_and_a_lost_node_is_not_a_fault_of_the_work(machines: Machines, tmp_path: Path) -> None:
    machines.do("add", "a")
    machines.do("add", "b")
    started = tmp_path / "started"
    with Cluster.open(ClusterSettings(address=machines.address)) as cluster:
        values = cluster.launch_gang("entries:meet", {}, workers=2, name="meet", deadline_s=120)
        assert [value["total"] for value in values] == [2, 2]
        assert len({value["node"] for value in values}) == 2
        assert {value["interface"] for value in values} != {"lo"}

        killed = []

        def kill() -> None:
            if started.exists() and not killed:
                killed.append("b")
                machines.do("kill", "b")

        with pytest.raises(NodeLost):
            cluster.launch_gang("entries:train", {"started": str(started)}, workers=2, name="lost", deadline_s=120, on_poll=kill)
        assert killed == ["b"]
        assert cluster.launch_gang("entries:meet", {}, workers=1, name="rest", deadline_s=120)[0]["total"] == 1


@pytest.mark.fault("K5")
def test_a_drained_node_is_told_to_every_rank_in_time_for_a_checkpoint(machines: Machines, tmp_path: Path) -> None:
    machines.do("add", "a")
    machines.do("add", "b")
    started = tmp_path / "started"
    drained = []

    def drain() -> None:
        if started.exists() and not drained:
            drained.append("b")
            machines.do("drain", "b")

    with Cluster.open(ClusterSettings(address=machines.address)) as cluster:
        values = cluster.launch_gang("entries:train", {"started": str(started)}, workers=2, name="drain", deadline_s=120, on_poll=drain)
    assert drained == ["b"]
    assert values[0] == values[1]
    assert values[0]["step"] is not None
