"""Progress of long work: a bar with rate and time left on a terminal, a line every few seconds otherwise (a job's log)."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

LINE_EVERY_S = 5.0


class Progress:
    """Counts `done` of `total` in `unit`; use as a context manager."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._note = ""
        self._started_at_s = time.monotonic()
        self._line_at_s = self._started_at_s
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = [
                TextColumn("{task.description:<12}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]} {task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            ]
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, unit=self.unit, rate="", note="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count some as done."""
        self.update(self.done + count, note)

    def update(self, done: int, note: str = "") -> None:
        """Set how many are done, with a word on what is going on."""
        self.done, self._note = done, note or self._note
        now = time.monotonic()
        rate = self.done / max(now - self._started_at_s, 1e-3)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:.3g}/s", note=self._note)
        elif now - self._line_at_s >= LINE_EVERY_S:
            self._line_at_s = now
            left = f", {rate:.3g}/s, {(self.total - done) / rate:.0f} s left" if done and rate > 0 else ""
            log.info("%s: %d/%d %s%s%s", self.title, done, self.total, self.unit, left, f", {self._note}" if self._note else "")
