"""A sample of an artifact's rows, and a clock for the parts of a stage's work: what `show FILE STAGE profile` is made of. Nothing here is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.stage import Timing
from pipeline.tables import ROWS_PER_BATCH, open_file, utf8


def sample(paths: Sequence[Path], column: str, most_bytes: int) -> list[pa.RecordBatch]:
    """The first rows of each file, equal shares of about so many bytes of its string column together, in batches as stages read them; at least a row a file."""
    taken = []
    for path in paths:
        left = max(1, most_bytes // len(paths))
        reader = open_file(path)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            _, offsets = utf8(batch.column(column))
            ends = offsets[1:] - offsets[0]
            rows = min(batch.num_rows, int(np.searchsorted(ends, left)) + 1)
            taken.append(batch.slice(0, rows))
            left -= int(ends[rows - 1]) if rows else 0
            if left <= 0:
                break
    return [] if not taken else list(pa.Table.from_batches(taken).combine_chunks().to_batches(max_chunksize=ROWS_PER_BATCH))


class Stopwatch:
    """Adds up the seconds of parts by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started_at_s = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started_at_s

    def timings(self, documents: int, size: int, remarks: Mapping[str, str] | None = None) -> list[Timing]:
        """A timing a part, in the order in which the parts were first met."""
        given: Mapping[str, Any] = remarks or {}
        return [Timing(name, documents, size, seconds, given.get(name, "")) for name, seconds in self.seconds.items()]
