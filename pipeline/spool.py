"""From the metric records that rank 0 leaves in storage to the figures of a run in MLflow.

    rank 0: Curve.append → chunk files in storage      driver, each second: SpoolReader.pump → Tracking.log_metrics

Each figure is handed on once: a step that is written again after a restart from a checkpoint has the same value, and is passed
over. What is handed on lies in the outbox, so an outage of MLflow after that loses nothing.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

from pipeline.tracking import MetricRow, Run, Tracking

logger = logging.getLogger(__name__)

STEP = "step"


class Chunks(Protocol):
    """Where records are read from, as `pipeline.curve.Curve` does it."""

    def read(self, after: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The records behind the first `after` chunks, and the number of chunks there are."""


class SpoolReader:
    """Tails the records of one training for one run."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._read = 0
        self._last_step: dict[str, int] = {}

    def pump(self, tracking: Tracking, run: Run) -> int:
        """Hand on what is new; returns the number of figures. A storage that cannot be read now is read the next time."""
        try:
            records, count = self._chunks.read(self._read)
        except Exception as error:  # noqa: BLE001 - figures are not worth a run
            logger.warning("the training's records cannot be read now: %s", error)
            return 0
        rows = self._new(records)
        if rows:
            tracking.log_metrics(run, rows)
        self._read = count
        return len(rows)

    def _new(self, records: list[dict[str, Any]]) -> list[MetricRow]:
        now_ms = int(time.time() * 1000)
        rows: list[MetricRow] = []
        for record in records:
            step = int(record[STEP])
            for name, value in record.items():
                if name != STEP and isinstance(value, int | float) and step > self._last_step.get(name, -1):
                    rows.append((name, float(value), step, now_ms))
                    self._last_step[name] = step
        return rows
