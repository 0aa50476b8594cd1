"""The command line inside this process, on the one Ray that the tests share: seconds less a run than a process of its own.

A module that wants it says `cli = inside.cli`. It is for tests of what a run does with data and with what was done before; what a process of its own
is the point of (imports, exit status, signals, Ray's own start) goes through `tiny.run`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline import runner
from pipeline.cli import commands
from pipeline.cluster import Cluster


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, standard output, standard error, and both as they came."""

    code: int
    out: str
    err: str
    text: str

    @property
    def states(self) -> dict[str, str]:
        """State of each stage from the table that a run prints; empty where nothing was to do."""
        rows = [line.split() for line in self.out.splitlines()]
        return {row[0]: row[1] for row in rows if len(row) >= 3 and row[1] in ("ran", "reused", "done")}

    def ran(self) -> set[str]:
        """The stages that did their work."""
        return {name for name, state in self.states.items() if state == "ran"}


class NoObserver:
    """Stands for MLflow's side of a run where MLflow is not the point."""

    def __init__(self, *_: object) -> None:
        pass

    def begin(self, *_: object) -> None:
        return None

    def skipped(self, *_: object) -> None:
        pass

    poll = finished = failed = close = skipped


Cli = Callable[..., Outcome]


class _Borrowed:
    """The shared cluster, which a run must not close."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    def close(self) -> None:
        pass


@contextlib.contextmanager
def in_process(pool: Any, home: Path) -> Iterator[Cli]:
    """`cli(command, file, *arguments)` while the block lasts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setattr(runner, "Observer", NoObserver)
        patch.setattr(Cluster, "open", staticmethod(lambda settings, **options: _Borrowed(pool.get())))
        yield _invoke


def _invoke(command: str, file: Path, *arguments: str) -> Outcome:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        result = CliRunner().invoke(commands, [command, str(file), *arguments], env=dict(os.environ))
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr, result.output)


@pytest.fixture
def cli(pool: Any, home: Path) -> Iterator[Cli]:
    """The command line in this process; see the module."""
    with in_process(pool, home) as call:
        yield call
