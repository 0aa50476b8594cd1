"""Rows of hashes as arrays: 16-byte ids and hashes as pairs of 64-bit numbers; files sorted by a key, of which a partition is a range; documents by number.

id, hash     binary(16) in files of text  <->  two uint64 arrays (high, low), which sort as the bytes do
a document   a number: its row in its shard, counted on through the shards in the order of the manifest
partition p of P     the rows whose hash lies in the p-th of P equal ranges: found by bisection, so that P shapes no file of the map phases
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
Columns = dict[str, np.ndarray[Any, Any]]
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


def mapped(task: Task, plain: Mapping[str, Any]) -> Columns:
    """The columns of a file of one batch as arrays over mapped memory; {} where it has no row."""
    shard = Shard(**plain)
    if not shard.rows:
        return {}
    batch = open_file(task.storage.local(shard.path, shard.sha256)).get_batch(0)
    return {name: batch.column(name).to_numpy() for name in batch.schema.names}


def write(task: Task, name: str, schema: pa.Schema, columns: Mapping[str, Any]) -> None:
    """Write rows as one batch, so that each column is one run of memory when the file is mapped."""
    with task.table(name, schema, one_batch=True) as table:
        table.partition({field.name: np.asarray(columns[field.name]).astype(field.type.to_pandas_dtype(), copy=False) for field in schema})


def read_range(column: Columns, key: str, low: int, high: int) -> Columns:
    """The rows of a file sorted by `key` in which it is at least `low` and less than `high`; views, no copy."""
    if not column:
        return {}
    kind = column[key].dtype
    first = int(np.searchsorted(column[key], kind.type(low), "left"))
    most = np.iinfo(kind).max
    last = len(column[key]) if high > most else int(np.searchsorted(column[key], kind.type(high), "left"))
    return {name: values[first:last] for name, values in column.items()}


def read_partition(
    task: Task, shards: Sequence[Mapping[str, Any]], key: str, number: int, partitions: int
) -> Iterator[tuple[int, Columns]]:
    """Of files sorted by the 64-bit hash `key`: the place of each in `shards` that has any, and its rows of partition `number`."""
    low, high = (number << 64) // partitions, ((number + 1) << 64) // partitions
    for place, plain in enumerate(shards):
        found = read_range(mapped(task, plain), key, low, high)
        if found and len(found[key]):
            yield place, found


class Documents:
    """Row-aligned files of all shards (verdicts), read by document number; mapped, so only what is asked for is touched."""

    def __init__(self, task: Task, shards: Sequence[Mapping[str, Any]]) -> None:
        self._task, self._shards = task, shards
        self.starts: I64 = np.concatenate([[0], np.cumsum([plain["rows"] for plain in shards])]).astype(np.int64)
        self._open: dict[int, pa.RecordBatch] = {}

    def _column(self, place: int, name: str) -> np.ndarray[Any, Any]:
        if place not in self._open:
            shard = Shard(**self._shards[place])
            self._open[place] = open_file(self._task.storage.local(shard.path, shard.sha256)).get_batch(0)
        column: np.ndarray[Any, Any] = self._open[place].column(name).to_numpy()
        return column

    def columns(self, numbers: I64, names: Sequence[str]) -> Columns:
        """These columns (of numbers) of these documents, in the order of `numbers`."""
        order = np.argsort(numbers, kind="stable")
        ordered = numbers[order]
        edges = np.searchsorted(ordered, self.starts)
        found: Columns = {}
        for place in np.flatnonzero(np.diff(edges)).tolist():
            rows = ordered[edges[place] : edges[place + 1]] - self.starts[place]
            for name in names:
                column = self._column(place, name)
                if name not in found:
                    found[name] = np.empty(len(numbers), column.dtype)
                found[name][order[edges[place] : edges[place + 1]]] = column[rows]
        return found if found else {name: np.zeros(0, np.int64) for name in names}

    def ids(self, numbers: I64) -> Ids:
        """Their ids."""
        found = self.columns(numbers, ("high", "low"))
        return Ids(found["high"].astype(np.uint64, copy=False), found["low"].astype(np.uint64, copy=False))


def places_in(values: I64, others: np.ndarray[Any, Any]) -> I64:
    """Where each value stands in `others`, which are sorted and distinct; -1 where it does not."""
    if not len(others):
        return np.full(len(values), -1, np.int64)
    at = np.minimum(np.searchsorted(others, values), len(others) - 1)
    return np.where(others[at] == values, at, -1).astype(np.int64)


def runs(*sorted_keys: np.ndarray[Any, Any]) -> I64:
    """Where each run of equal keys begins, and at last their number, for keys sorted together; shape (runs + 1,)."""
    count = len(sorted_keys[0])
    if not count:
        return np.zeros(1, np.int64)
    differs = np.zeros(count - 1, np.bool_)
    for key in sorted_keys:
        differs |= key[1:] != key[:-1]
    return np.concatenate([[0], np.flatnonzero(differs) + 1, [count]]).astype(np.int64)


def in_shared_runs(starts: I64) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows stand in a run of more than one."""
    sizes = np.diff(starts)
    return np.repeat(sizes > 1, sizes)
