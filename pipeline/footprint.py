"""Peak memory of this process and all below it: proportional set size (PSS), summed, sampled each second; and a bound on that of one process."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

EVERY_S = 1.0
FRESH_S = 10.0


def tree_pss_bytes(root: Any) -> int:
    """PSS of a `psutil.Process` and all its descendants, in bytes; a process that ends meanwhile counts as 0."""
    import psutil

    total = 0
    try:
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in processes:
        try:
            total += _pss_bytes(process)
        except psutil.Error:
            continue
    return total


_known: dict[tuple[int, float], tuple[int, int, float]] = {}
"""(pid, start time) -> (RSS, PSS, time) at the last full reading."""


def _pss_bytes(process: Any) -> int:
    """PSS of one process. Reading it walks all its pages, so it is read anew only when the cheap RSS has moved, or after `FRESH_S`."""
    rss, key = int(process.memory_info().rss), (int(process.pid), float(process.create_time()))
    seen = _known.get(key)
    now = time.monotonic()
    if seen is not None and abs(rss - seen[0]) <= max(rss // 100, 1 << 20) and now - seen[2] < FRESH_S:
        return seen[1]
    pss = int(process.memory_full_info().pss)
    _known[key] = (rss, pss, now)
    return pss


class Footprint:
    """Samples in a thread; `peak_bytes` in all and `mark` for the peak since the last mark. Use as a context manager."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._since_mark = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="footprint", daemon=True)

    def __enter__(self) -> Footprint:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def mark(self) -> int:
        """Peak in bytes since the last call; what is used now counts, so that no stage is too short to be seen."""
        self._sample()
        with self._lock:
            peak, self._since_mark = self._since_mark, 0
        return peak

    def _sample(self) -> None:
        import psutil

        now = tree_pss_bytes(psutil.Process())
        with self._lock:
            self.peak_bytes = max(self.peak_bytes, now)
            self._since_mark = max(self._since_mark, now)

    def _run(self) -> None:
        while not self._stop.is_set():
            started_at_s = time.monotonic()
            self._sample()
            self._stop.wait(max(0.0, EVERY_S - (time.monotonic() - started_at_s)))


def let_go() -> None:
    """Give memory that was freed back to the system: a worker that waits for its next task would hold the most that its last one took."""
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        arrow.default_memory_pool().release_unused()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    """glibc's; none elsewhere."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None


_at_rest: list[int] = []
"""Bytes of data that this process had when a bound was first set."""


@contextlib.contextmanager
def at_most(more_bytes: int | None) -> Iterator[None]:
    """While the block lasts, this process gets at most so much memory beyond what it had at the first such block; None: no bound.

    A larger allocation fails: in Python and numpy a MemoryError, in most native code the end of the process. The bound is on private writable memory
    (RLIMIT_DATA), so files that are mapped do not count. Where the system does not tell (no /proc) there is none.
    """
    status = Path("/proc/self/status")
    if more_bytes is None or not status.exists():
        yield
        return
    import resource

    if not _at_rest:
        _at_rest.append(next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmData:")))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = _at_rest[0] + more_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
