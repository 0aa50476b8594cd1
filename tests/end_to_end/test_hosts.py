"""The hosts that other tests stand on: they see each other, can be cut off, healed and killed, and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end import hosts

PORT = 4000
SERVER = "import socket, sys\nserver = socket.create_server((sys.argv[1], 4000))\nwhile True: server.accept()[0].sendall(b'here')"
CLIENT = "import socket, sys\nprint(socket.create_connection((sys.argv[1], 4000), timeout=float(sys.argv[2])).recv(4).decode())"


@pytest.fixture
def network() -> Iterator[hosts.Network]:
    if reason := hosts.forbidden():
        pytest.skip(reason)
    with hosts.Network.open(2) as opened:
        yield opened


def python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", script, *arguments]


def answer(network: hosts.Network, timeout: float = 0.7) -> str:
    """What the second host says to the first: `here`, or the name of the error."""
    done = network.run(0, *python(CLIENT, network.addresses[1], str(timeout)))
    return done.stdout.strip() or done.stderr.splitlines()[-1].partition(":")[0]


def test_hosts_see_each_other_until_one_is_cut_or_killed(network: hosts.Network) -> None:
    server = network.start(1, *python(SERVER, network.addresses[1]))
    end = time.monotonic() + 30
    while answer(network) != "here":
        assert time.monotonic() < end and server.poll() is None
    network.cut(1)
    assert answer(network) == "TimeoutError"  # nothing comes back, not even a refusal
    assert network.pids(1) == [server.pid]
    network.heal(1)
    assert answer(network, 20) == "here"
    network.kill(1)
    assert network.pids(1) == []
    assert server.wait(10) == -9
    assert answer(network, 20) == "ConnectionRefusedError"


def test_a_host_has_its_own_address_and_loopback_and_no_way_out(network: hosts.Network) -> None:
    assert network.addresses == ("10.213.7.1", "10.213.7.2")
    for host, address in enumerate(network.addresses):
        links = subprocess.run(network.command(host, "ip", "-brief", "-4", "address"), capture_output=True, text=True, check=True).stdout
        assert [line.split()[0].partition("@")[0] for line in links.splitlines()] == ["lo", "eth0"]
        assert f"{address}/24" in links
        routes = subprocess.run(network.command(host, "ip", "route"), capture_output=True, text=True, check=True).stdout
        assert "default" not in routes


def test_what_a_killed_test_left_is_removed_with_all_that_runs_there_and_what_lives_stays(network: hosts.Network) -> None:
    script = (
        "import os, signal, subprocess\n"
        "from tests.end_to_end.hosts import Network\n"
        "with Network.open(2) as left:\n"
        "    print(os.getpid(), left.start(0, 'sleep', '1000', stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid, flush=True)\n"
        "    while not left.pids(0): pass\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    died = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60)
    assert died.returncode == -9, died.stderr
    pid, sleeper = map(int, died.stdout.split())
    assert hosts.started(sleeper)
    hosts.sweep()
    assert not [name for name in hosts.namespaces() if f"-{pid}-" in name]
    assert not Path(f"/proc/{sleeper}").exists() or "Z" in Path(f"/proc/{sleeper}/stat").read_text().rpartition(")")[2]
    assert network.run(0, "true").returncode == 0
