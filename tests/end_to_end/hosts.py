"""Several hosts on one machine: Linux network namespaces joined by a bridge that stands in a namespace of its own.

    with hosts.Network.open(3) as network:           # 10.213.7.1 … 10.213.7.3, to be had from one another and from nowhere else
        network.run(0, "ray", "job", "list")         # a command on the first host
        network.cut(2); network.heal(2)              # the port leaves the bridge: nothing passes in either direction, and nobody is told
        network.kill(1)                              # SIGKILL to every process of the host

    with hosts.RayHosts.open(3, folder) as machines: # a Ray node in each, the head with its job server in the first
        job = machines.submit("pipeline.yaml", "storage=…")

The hosts share the file system (which is the shared storage) and the host name, and own their interfaces, addresses and ports. The machine's own
network takes no part, so that no address clashes. A namespace is named for the process of the test that made it (pid and start time) and for
nothing else; `open` first removes those of test processes that are dead, with all that runs in them, so that a killed test leaves nothing for long.

Needs Linux, `ip` of iproute2, and the right to make namespaces: `forbidden` says what is missing.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "xlmt"
GCS_PORT, DASHBOARD_PORT = 6379, 8265  # Ray's usual ones: every host has all ports for itself
_NAME = re.compile(rf"{PREFIX}-(\d+)-(\d+)-\d+-(?:switch|\d+)")
_serial = itertools.count()


@functools.cache
def forbidden() -> str | None:
    """Why this machine lets nobody make a network namespace, or None where it does; tried, not guessed."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        return "hosts are network namespaces, which need Linux and `ip` of iproute2"
    probe = f"{_mine()}-{next(_serial)}-0"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode:
        return f"this machine forbids network namespaces (root and CAP_SYS_ADMIN are needed): {made.stderr.strip()}"
    linked = subprocess.run(["ip", "-n", probe, "link", "add", "bridge", "type", "bridge"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", probe], check=True)
    if linked.returncode:
        return f"this machine forbids a bridge between namespaces (CAP_NET_ADMIN is needed): {linked.stderr.strip()}"
    return None


def started(pid: int) -> str:
    """The kernel's start time of a process in ticks, '' where it is gone: with the pid, a name that no other process has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _mine() -> str:
    return f"{PREFIX}-{os.getpid()}-{started(os.getpid())}"


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
    return done.stdout


def namespaces() -> list[str]:
    """The names of all network namespaces of this machine."""
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line.strip()]


def _pids(namespace: str) -> list[int]:
    return [int(pid) for pid in _ip("netns", "pids", namespace).split()]


def _kill_all(namespace: str) -> None:
    """SIGKILL until nothing runs there: what was being started while the list was read is in the next list."""
    end = time.monotonic() + 30
    while pids := _pids(namespace):
        assert time.monotonic() < end, f"{namespace}: {pids} do not die"
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def sweep() -> list[str]:
    """Remove the namespaces of test processes that are dead, and kill what runs in them; returns their names."""
    swept = []
    for name in namespaces():
        owner = _NAME.fullmatch(name)
        if owner is None or started(int(owner[1])) == owner[2]:
            continue
        with contextlib.suppress(AssertionError):  # another test process may sweep, too
            _kill_all(name)
            _ip("netns", "delete", name)
            swept.append(name)
    return swept


class Network:
    """Hosts 0 to n − 1, each with the interface `eth0`; made by `open`."""

    def __init__(self, number: int) -> None:
        base = f"{_mine()}-{next(_serial)}"
        self._switch = f"{base}-switch"
        self._names = [f"{base}-{host}" for host in range(number)]
        self.addresses = tuple(f"10.213.7.{host + 1}" for host in range(number))
        """The address of each host."""
        self.cuts: set[int] = set()
        """Hosts that are cut off now."""
        self._children: list[subprocess.Popen[Any]] = []

    @classmethod
    @contextlib.contextmanager
    def open(cls, number: int) -> Iterator[Network]:
        """Make `number` hosts; at the end, however it comes, all that runs on them is killed and they are removed."""
        assert 2 <= number <= 4, number
        sweep()
        network = cls(number)
        try:
            network._make()
            yield network
        finally:
            network._remove()

    def _make(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for host, name in enumerate(self._names):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{host}", "netns", self._switch)
            _ip("-n", name, "address", "add", f"{self.addresses[host]}/24", "dev", "eth0")
            for interface in ("lo", "eth0"):
                _ip("-n", name, "link", "set", interface, "up")
            _ip("-n", self._switch, "link", "set", f"port{host}", "up")
            self.heal(host)

    def _remove(self) -> None:
        present = set(namespaces())
        for name in (name for name in (*self._names, self._switch) if name in present):
            _kill_all(name)
            _ip("netns", "delete", name)
        for child in self._children:
            child.wait()

    def command(self, host: int, *arguments: str) -> list[str]:
        """The argument vector that runs a command on a host."""
        return ["ip", "netns", "exec", self._names[host], *arguments]

    def run(self, host: int, *arguments: str, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end; its output is captured as text."""
        return subprocess.run(
            self.command(host, *arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, **options
        )

    def start(self, host: int, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a process on a host, in a session of its own; it is killed with the host at the latest."""
        child = subprocess.Popen(self.command(host, *arguments), stdin=subprocess.DEVNULL, start_new_session=True, **options)
        self._children.append(child)
        return child

    def pids(self, host: int) -> list[int]:
        """The processes of a host."""
        return _pids(self._names[host])

    def kill(self, host: int) -> None:
        """SIGKILL to all processes of a host; its network stays and refuses connections."""
        _kill_all(self._names[host])

    def cut(self, host: int) -> None:
        """Take a host off the bridge: packets are dropped both ways, its interface stays up and its processes live on."""
        _ip("-n", self._switch, "link", "set", f"port{host}", "nomaster")
        self.cuts.add(host)

    def heal(self, host: int) -> None:
        """Put a host (back) on the bridge."""
        _ip("-n", self._switch, "link", "set", f"port{host}", "master", "bridge")
        self.cuts.discard(host)


# Ray on them ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A job that was submitted: the process of `ray job submit`, and the file that holds what it printed."""

    process: subprocess.Popen[Any]
    log: Path

    def text(self) -> str:
        """What was printed so far."""
        return self.log.read_text(errors="replace")

    def wait(self, timeout: float) -> int:
        """Return the code of `ray job submit`: 0 when the job ended well."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the job did not end within {timeout:g} s:\n{self.text()[-5000:]}") from None


class RayHosts:
    """A Ray node of one CPU on each host of a `Network`, with a token; the head and its job server on the first."""

    def __init__(self, network: Network, folder: Path, temp: Path) -> None:
        self.network = network
        self._folder, self._temp = folder, temp
        self._starts = 0
        self._jobs = 0
        token = folder / "token"
        token.write_text("0123456789abcdef0123456789abcdef")
        token.chmod(0o600)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
        self.environment: dict[str, str] = {
            **kept, "HOME": str(folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "NO_COLOR": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        """That of those who know the token."""

    @classmethod
    @contextlib.contextmanager
    def open(cls, number: int, folder: Path) -> Iterator[RayHosts]:
        """Start Ray on `number` hosts; `folder` gets the token and the logs. Sockets lie in short paths below /tmp."""
        temp = Path(f"/tmp/xh{os.getpid()}-{next(_serial)}")
        with Network.open(number) as network:
            machines = cls(network, folder, temp)
            try:
                machines.restore()
                yield machines
            finally:
                for host in range(number):
                    network.kill(host)
                shutil.rmtree(temp, ignore_errors=True)

    def restore(self) -> None:
        """Heal every link, start Ray where it no longer runs, and wait until all hosts are nodes of the cluster.

        A host that was cut off begins anew: Ray may have given it up, and ranks that were given up may still wait there.
        """
        for host in tuple(self.network.cuts):
            self.network.kill(host)
            self.network.heal(host)
        alive = set(self.alive().values()) if self._starts else set()
        for host, address in enumerate(self.network.addresses):
            if address not in alive or not self.network.pids(host):
                self.network.kill(host)
                self._start(host)
            if host == 0:
                self._wait(self._serves, "the job server")
        # A node that was killed counts as alive for some seconds more, beside the new one of the same address.
        self._wait(lambda: sorted(self.alive().values()) == sorted(self.network.addresses), "all nodes")
        self._wait(lambda: not any(self.ranks(host) for host in range(len(self.network.addresses))), "an end of the jobs before")

    def alive(self) -> dict[str, str]:
        """The nodes that Ray takes for alive and does not drain: node id to address."""
        script = (
            "import json, sys, ray\n"
            "from ray._raylet import GcsClient, GcsClientOptions\n"
            "from ray._private.state import state\n"
            "state._initialize_global_state(GcsClientOptions.create(sys.argv[1], None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False))\n"
            "draining = state.get_draining_nodes()\n"
            "print(json.dumps({n['NodeID']: n['NodeManagerAddress'] for n in ray.nodes() if n['Alive'] and n['NodeID'] not in draining}))\n"
        )
        done = self.network.run(0, sys.executable, "-c", script, f"{self.network.addresses[0]}:{GCS_PORT}", env=self.environment)
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return found

    def drain(self, host: int, seconds: int) -> None:
        """Tell Ray, as a cloud would, that a host will be taken away in so many seconds."""
        (node,) = [node for node, address in self.alive().items() if address == self.network.addresses[host]]
        done = self.network.run(
            0, "ray", "drain-node", f"--address={self.network.addresses[0]}:{GCS_PORT}", f"--node-id={node}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=taken", f"--deadline-remaining-seconds={seconds}", env=self.environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def submit(self, folder: Path, *arguments: str) -> Job:
        """Submit `python -m pipeline run …` from the first host with `folder` as the job's working_dir; does not wait."""
        self._jobs += 1
        log = self._folder / f"job-{self._jobs}.log"
        with log.open("wb") as out:
            process = self.network.start(
                0, "ray", "job", "submit", "--address", f"http://127.0.0.1:{DASHBOARD_PORT}", "--working-dir", ".", "--",
                "python", "-m", "pipeline", "run", *arguments, cwd=folder, env=self.environment, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        return Job(process, log)

    def ranks(self, host: int) -> list[int]:
        """The training processes on a host."""
        found = []
        for pid in self.network.pids(host):
            with contextlib.suppress(OSError):
                if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def _start(self, host: int) -> None:
        self._starts += 1
        address = self.network.addresses[host]
        role = (
            ["--head", f"--port={GCS_PORT}", f"--dashboard-port={DASHBOARD_PORT}"]
            if host == 0
            else [f"--address={self.network.addresses[0]}:{GCS_PORT}"]
        )
        with (self._folder / f"ray-{host}-{self._starts}.log").open("wb") as out:
            self.network.start(
                host, "ray", "start", *role, "--block", f"--node-ip-address={address}", f"--temp-dir={self._temp}/{self._starts}",
                "--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats",
                env=self.environment, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _serves(self) -> bool:
        command = ["ray", "job", "list", "--address", f"http://127.0.0.1:{DASHBOARD_PORT}"]
        return self.network.run(0, *command, env=self.environment).returncode == 0

    def _wait(self, condition: Any, what: str, timeout: float = 240) -> None:
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"{what} did not come up within {timeout:g} s; see {self._folder}"
            time.sleep(1)
