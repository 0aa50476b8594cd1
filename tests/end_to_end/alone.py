"""Whole runs without Ray or MLflow, each in a process of its own that works its units itself and may be killed anywhere: a tenth of a second to start.

    Drivers() -> a process that has imported everything -> fork for each run -> the command line -> exit status, output
    cli       -> the same in the test's own process, where a test wants to lay hands on it

It stands in where what is on disk is the point (commit borders, resuming, hash seeds), not how workers are started: a kill takes the driver and the
unit at hand together. What Ray does with dead workers is tested elsewhere.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.end_to_end import inside, tiny

WARM = (
    "pipeline.cli", "pipeline.runner", "pipeline.remote", "stages.ingest.work", "stages.ingest.sources.text", "stages.ingest.sources.jsonl",
    "stages.ingest.sources.tsv_pairs", "stages.clean.work", "stages.heldout.work", "stages.examples.work", "stages.dedup.work",
    "stages.dedup.hashes", "stages.dedup.judge", "stages.dedup.near", "stages.dedup.exact", "stages.dedup.decide",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit status (negative: the signal), and all that it printed."""

    code: int
    text: str


class Drivers:
    """A context manager that runs the command line in forks of one process. `env` is what they all have besides this process's own."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = tiny.environment(env)

    def __enter__(self) -> Drivers:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.end_to_end.alone"],
            env=self._env,
            cwd=tiny.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()

    def run(self, file: Path, *args: str, env: Mapping[str, str] | None = None, open_files: int | None = None) -> Ended:
        """Run `pipeline run FILE args…` to its end, perhaps with a bound on open files."""
        assert self._server.stdin is not None and self._server.stdout is not None
        with tempfile.NamedTemporaryFile(suffix=".log") as log:
            order = {
                "args": ["run", str(file), *args],
                "cwd": str(file.parent),
                "env": dict(env or {}),
                "log": log.name,
                "files": open_files,
            }
            self._server.stdin.write(json.dumps(order) + "\n")
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
            assert answer, "the process that forks runs is gone"
            return Ended(int(answer), Path(log.name).read_text(encoding="utf-8", errors="replace"))


@pytest.fixture
def cli(home: Path) -> Iterator[inside.Cli]:
    """The command line in this process, without Ray."""
    with inside.in_process(_Pool(), home) as call:
        yield call


# ---------------------------------------------------------------- what works the units


class _Handle:
    def __init__(self, function: str, argument: Any) -> None:
        self.function, self.argument = function, argument
        self.value: Any = None
        self.error: BaseException | None = None


class _Inline:
    """Stands for the cluster: a task is worked in this process when it is waited for."""

    def __init__(self, settings: Any) -> None:
        self.settings, self.is_local, self.gpus_per_worker = settings, True, 0.0
        self.workers = settings.workers or 2

    def submit(self, function: str, argument: object, **_: object) -> _Handle:
        return _Handle(function, argument)

    def wait(self, handles: Collection[_Handle], timeout_s: float) -> list[_Handle]:
        from pipeline.remote import run_named

        handle = next(iter(handles))
        try:
            handle.value = run_named(None, handle.function, handle.argument)
        except Exception as error:  # noqa: BLE001 - as a worker hands it over
            handle.error = error
        return [handle]

    def result(self, handle: _Handle) -> object:
        from pipeline.cluster import TaskRaised

        if handle.error is not None:
            raise TaskRaised(str(handle.error), error=handle.error, traceback="")
        return handle.value

    def launch_gang(self, entry: str, argument: Mapping[str, Any], *, workers: int, **_: object) -> list[Any]:
        """A gang of one is this process."""
        from pipeline.remote import resolve
        from pipeline.training.engine import Alone

        assert workers == 1, workers
        return [resolve(entry)(Alone(), json.loads(json.dumps(argument)))]

    def handshake(self, *_: object) -> None:
        pass

    cancel = close = require = handshake


class _Pool:
    """As the tests' shared cluster."""

    def get(self) -> _Inline:
        from pipeline.cluster import ClusterSettings

        return _Inline(ClusterSettings(workers=2))


# ---------------------------------------------------------------- in the other process


def _work(order: Mapping[str, Any]) -> int:
    from pipeline import runner
    from pipeline.cli import commands
    from pipeline.cluster import Cluster

    os.environ.update(order["env"])
    os.fsync = lambda _: None  # a SIGKILL loses nothing that the system has taken, and forcing it to the disk is most of the time
    os.chdir(order["cwd"])
    if order["files"] is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (order["files"], order["files"]))
    runner.Observer = inside.NoObserver  # type: ignore[misc, assignment]
    Cluster.open = staticmethod(lambda settings, **_: _Inline(settings))  # type: ignore[method-assign, assignment]
    try:
        commands(order["args"])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


def _load_kernels() -> None:
    """Compiled code is loaded at its first call, which takes longer than a run's work."""
    import numpy as np
    import pyarrow as pa

    from pipeline.tables import utf8
    from pipeline.text import line_hashes, minhash, ngrams, shingles
    from pipeline.text.measures import Measurer

    texts = utf8(pa.array(["one two three four five six seven eight", "one"], pa.large_string()))
    Measurer({}).measure(*texts, ["en", "en"])
    line_hashes.line_hashes(*texts, 5)
    minhash.band_hashes(*texts)
    shingles.distinct_shingles(*texts)
    ngrams.shares_ngram(*texts, *ngrams.ngram_hashes(*texts, 3))
    minhash.components(2, np.array([[0, 1]]))


def main() -> None:
    from importlib import import_module

    for name in WARM:
        import_module(name)
    _load_kernels()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            log = os.open(order["log"], os.O_WRONLY)
            null = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((null, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            code = 1
            try:
                code = _work(order)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
