"""A command run to its end: its time, the peak memory of its process tree (proportional set size, PSS), and the processor time of its workers."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.footprint import tree_pss_bytes

EVERY_S = 0.5
WAIT_S = 3 * 3600


@dataclass(frozen=True)
class Cost:
    """What a command took. `worker_bytes` is the peak PSS of the largest process below the command itself.

    `cpu_seconds` are of the command's own process and of its workers, not of a cluster's daemons, as last seen alive: each may have worked up to EVERY_S more. They tell
    a slow program from a busy machine.
    """

    seconds: float
    peak_bytes: int
    worker_bytes: int
    cpu_seconds: float
    output: str


Processors = dict[tuple[int, float], float]
"""Processor time by process: its number and when it began."""


def _note_cpu(process: psutil.Process, seen: Processors) -> None:
    times = process.cpu_times()
    seen[process.pid, process.create_time()] = times.user + times.system


def _largest_worker(root: psutil.Process, title: str, seen: Processors) -> int:
    largest = 0
    for process in root.children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                _note_cpu(process, seen)
                largest = max(largest, int(process.memory_full_info().pss))
        except psutil.Error:
            continue
    return largest


def run(command: Sequence[str], *, env: Mapping[str, str], folder: Path, log: Path, worker_title: str = "ray::") -> Cost:
    """Run a command, its output in `log`.

    Raises:
        RuntimeError: it failed; the message ends with the end of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    peaks = {"tree": 0, "worker": 0}
    cpu: Processors = {}
    stop = threading.Event()
    with log.open("wb") as sink:
        started_at_s = time.monotonic()
        child = subprocess.Popen(list(command), cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)

        def sample() -> None:
            while not stop.is_set():
                try:
                    root = psutil.Process(child.pid)
                    _note_cpu(root, cpu)
                    peaks["tree"] = max(peaks["tree"], tree_pss_bytes(root))
                    peaks["worker"] = max(peaks["worker"], _largest_worker(root, worker_title, cpu))
                except psutil.Error:
                    return
                stop.wait(EVERY_S)

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            status = child.wait(WAIT_S)
        except BaseException:
            child.kill()
            raise
        finally:
            stop.set()
        seconds = time.monotonic() - started_at_s
        thread.join(5)
    output = log.read_text(encoding="utf-8", errors="replace")
    if status:
        raise RuntimeError(f"{' '.join(command[:4])} … exited with {status}; see {log}:\n{output[-2000:]}")
    return Cost(seconds, peaks["tree"], peaks["worker"], sum(cpu.values()), output)
