"""Rows of hashes as arrays: 16-byte ids and hashes as pairs of 64-bit numbers, cut into partitions, sorted, grouped.

id, hash   binary(16) in files  <->  two uint64 arrays (high, low), which sort as the bytes do
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.manifest import Shard
from pipeline.tables import open_file
from pipeline.task import Task

U64 = np.ndarray[Any, np.dtype[np.uint64]]
I64 = np.ndarray[Any, np.dtype[np.int64]]
POISON = "poison"
"""The reason of what was set apart because it kills its worker; it is counted as quarantined, and its row stays, so that decisions stay row-aligned."""


@dataclass(frozen=True)
class Ids:
    """16-byte values as two numbers each."""

    high: U64
    low: U64

    @staticmethod
    def of(column: pa.Array | pa.ChunkedArray) -> Ids:
        """The values of a binary(16) column."""
        flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        raw = np.frombuffer(flat.buffers()[1], ">u8")[2 * flat.offset : 2 * (flat.offset + len(flat))].reshape(-1, 2)
        return Ids(raw[:, 0].astype(np.uint64), raw[:, 1].astype(np.uint64))

    @staticmethod
    def none() -> Ids:
        return Ids(np.zeros(0, np.uint64), np.zeros(0, np.uint64))

    @staticmethod
    def join(parts: Sequence[Ids]) -> Ids:
        """All of them, one behind the other."""
        if not parts:
            return Ids.none()
        return Ids(np.concatenate([part.high for part in parts]), np.concatenate([part.low for part in parts]))

    def __len__(self) -> int:
        return len(self.high)

    def __getitem__(self, rows: Any) -> Ids:
        return Ids(self.high[rows], self.low[rows])

    def arrow(self) -> pa.Array:
        """As a binary(16) column."""
        data = np.column_stack([self.high, self.low]).astype(">u8").tobytes()
        return pa.Array.from_buffers(pa.binary(16), len(self), [None, pa.py_buffer(data)])

    def places_in(self, other: Ids) -> I64:
        """Where each value stands in `other`, which is sorted and holds none twice; -1 where it does not."""
        found = np.full(len(self), -1, np.int64)
        if not len(other) or not len(self):
            return found
        low, high = np.searchsorted(other.high, self.high, "left"), np.searchsorted(other.high, self.high, "right")
        for step in range(int((high - low).max())):  # more than one only where two ids share their first 64 bits
            at = np.minimum(low + step, len(other) - 1)
            hit = (low + step < high) & (other.low[at] == self.low)
            found[hit] = at[hit]
        return found


def partition_of(high: U64, partitions: int) -> I64:
    """The partition of each hash, by its high bits: equal shares, in hash order."""
    shift = np.uint64(32)
    return ((high >> shift) * np.uint64(partitions) >> shift).astype(np.int64)


def write_partitions(task: Task, name: str, schema: pa.Schema, high: U64, columns: Mapping[str, Any], partitions: int) -> None:
    """Write rows sorted by (partition, `high`, then the order given) as one record batch a partition.

    A column is an `Ids` or an array of the schema's type; rows must come in an order that does not depend on how they were made.
    """
    order = np.argsort(high, kind="stable")
    edges = np.searchsorted(partition_of(high[order], partitions), np.arange(partitions + 1))
    with task.table(name, schema) as table:
        for p in range(partitions):
            rows = order[edges[p] : edges[p + 1]]
            table.partition({field.name: _arrow(columns[field.name], rows, field.type) for field in schema})


def _arrow(column: Any, rows: I64, kind: pa.DataType) -> pa.Array:
    return column[rows].arrow() if isinstance(column, Ids) else pa.array(column[rows], kind)


def read_partition(task: Task, shards: Sequence[Mapping[str, Any]], number: int) -> Iterator[pa.RecordBatch]:
    """Partition `number` of files that `write_partitions` wrote, in the order of the files."""
    for plain in shards:
        shard = Shard(**plain)
        if shard.rows:
            yield open_file(task.storage.local(shard.path, shard.sha256)).get_batch(number)


def runs(*sorted_keys: np.ndarray[Any, Any]) -> I64:
    """Where each run of equal keys begins, and at last their number, for keys sorted together; shape (runs + 1,)."""
    count = len(sorted_keys[0])
    if not count:
        return np.zeros(1, np.int64)
    differs = np.zeros(count - 1, np.bool_)
    for key in sorted_keys:
        differs |= key[1:] != key[:-1]
    return np.concatenate([[0], np.flatnonzero(differs) + 1, [count]]).astype(np.int64)
