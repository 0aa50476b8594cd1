"""Metric records of a training run in storage: numbered chunks, each written whole, so that a driver can tail them and replay them after an outage.

rank 0: append([record, …]) -> <folder>/00000001.json, 00000002.json, …      driver: read(after) -> records, and where it stands
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.failpoint import failpoint
from pipeline.skips import merged_without_undone
from pipeline.storage import Storage

Record = Mapping[str, float]


class Curve:
    """The chunks below one folder of a storage."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder
        self._written = -1

    def append(self, records: Sequence[Record]) -> None:
        """Write records as the next chunk; values that are not finite are left out, since JSON has no form for them."""
        if self._written < 0:
            self._written = len(self.chunks())
        self._written += 1
        plain = [{k: v for k, v in record.items() if math.isfinite(v)} for record in records]
        self._storage.write_json(f"{self._folder}/{self._written:08d}.json", plain)
        failpoint("curve.after_append")

    def chunks(self) -> list[str]:
        """Paths of the chunks, in order."""
        return [path for path in self._storage.list(self._folder) if path.endswith(".json") and "tmp." not in path]

    def read(self, after: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The records behind the first `after` chunks, and the number of chunks there are."""
        paths = self.chunks()
        records: list[dict[str, Any]] = []
        for path in paths[after:]:
            records.extend(self._storage.read_json(path) or [])
        return records, len(paths)

    def merged(self) -> list[dict[str, Any]]:
        """One record a step, those of steps that were undone left out; see `pipeline.skips.merged_without_undone`."""
        return merged_without_undone(self.read()[0])
