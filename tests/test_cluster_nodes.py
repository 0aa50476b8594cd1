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

import pytest

from pipeline.cluster import Cluster, ClusterSettings, NodeLost
from pipeline.errors import PreflightError

pytestmark = pytest.mark.cluster


NODES = """
import json, os, sys
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
    elif command == "kill":
        cluster.remove_node(nodes.pop(name), allow_graceful=False)
    print("done", flush=True)
cluster.shutdown()
"""


class Machines:
    """A Ray of several nodes that another process holds, as a user's cluster would be."""

    def __init__(self, folder: Path) -> None:
        token = folder / "token"
        token.write_text("1" * 64)
        token.chmod(0o600)
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        child = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
        child |= self.environment | {"HOME": str(folder), "RAY_health_check_timeout_ms": "2000"}
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
def machines(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    held = Machines(short_folder)
    for name, value in held.environment.items():
        monkeypatch.setenv(name, value)
    try:
        yield held
    finally:
        held.close()


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
