"""Fixtures for all tests: a home of their own, one local Ray a process, the real text.

`cluster` is opened at its first use and kept for the tests that follow in the same process (each worker of pytest-xdist has one). Ray has
one connection a process, so whoever opens a `Cluster` otherwise (a run, a module with its own fixture) makes this one close first; the next
test that asks for `cluster` opens it anew.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from pipeline.cluster import Cluster, ClusterSettings
from pipeline.connection import usable_cores

# How fast examples come says how crowded the machine is, not whether the program is right.
hypothesis.settings.register_profile("project", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("project")

_REASONS = {
    "slow": "takes more than about ten seconds: -m slow",
    "cluster": "starts several Ray nodes: -m cluster",
    "chaos": "a seeded loop of random kills: -m chaos",
    "gpu": "needs a GPU: -m gpu",
}


def pytest_configure() -> None:
    """Hear Ctrl-C, as the processes of tests do: a shell starts what it puts in the background with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Three processes for two cores: half of a test with a Ray in it is waiting."""
    cores = usable_cores()
    return cores + cores // 2


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what is left out by default, and why."""
    chosen = str(config.getoption("markexpr", ""))
    return [f"left out, {name}: {reason}" for name, reason in _REASONS.items() if f"not {name}" in chosen]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test for a GPU is skipped, with its reason, on a machine that has none."""
    if item.get_closest_marker("gpu") is not None and not list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("needs a GPU, and this machine has none")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own, so that no ~/.ray, ~/.cache or ~/xlm-pipeline is touched."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "RAY_ADDRESS", "PIPELINE_FAILPOINT", "PIPELINE_FAILPOINT_ONCE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: on a crowded machine two wait for each other far longer than one computes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real text."""
    folder = Path(os.environ.get("XLM_PIPELINE_TEST_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real text at {folder}: set XLM_PIPELINE_TEST_DATA")
    return folder


class _Pool:
    """The process's one shared cluster, or none."""

    def __init__(self) -> None:
        self._open = Cluster.open
        self._cluster: Cluster | None = None

    def get(self) -> Cluster:
        if self._cluster is None:
            self._cluster = self._open(ClusterSettings(workers=2))
        return self._cluster

    def open(self, settings: ClusterSettings, **options: Any) -> Cluster:
        self.close()
        return self._open(settings, **options)

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None


@pytest.fixture(scope="session", autouse=True)
def pool() -> Iterator[_Pool]:
    """Holds the shared cluster, and closes it when anything else opens one."""
    held = _Pool()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cluster, "open", held.open)
        yield held
    held.close()


@pytest.fixture
def cluster(pool: _Pool) -> Cluster:
    """A local Ray with two workers, shared by the tests of this process."""
    return pool.get()
