"""Exact duplicates: who is the first of each set of equals, partition by partition.

    hashes, partition p of all shards -> runs of equals -> those with more than one member -> sorted by (hash, rank, id, line)

The first of equals has the smallest (rank of its source, id, line), whatever the order in which anything ran. What a rule or an earlier pass dropped takes no part,
so that nothing is dropped in favour of what is gone itself: addresses, then whole texts, then near-duplicates, then paragraphs, then lines.

Memory: 70 to 85 bytes a row of the partition at the peak (28 gathered, the rest to sort), and nothing that grows with the corpus: ids and verdicts are looked up, in
mapped files, only for rows that have an equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.task import Task
from stages.dedup.rows import I64, Columns, Documents, Ids, in_shared_runs, mapped, places_in, read_partition, read_range, runs, write

CLUSTERS = pa.schema(
    [
        pa.field("member", pa.int64(), nullable=False),
        pa.field("survivor", pa.int64(), nullable=False),
        pa.field("size", pa.int32(), nullable=False),
    ]
)
"""Members of clusters of more than one by document number, sorted by member."""
HEADS = pa.schema([pa.field("head", pa.int64(), nullable=False), pa.field("survivor", pa.int64(), nullable=False)])
"""For each set of equal texts, whatever was decided on them: its smallest number, and the member that is left (-1: none), sorted by head."""
TWINS = pa.schema([pa.field("number", pa.int64(), nullable=False)])
"""Documents whose text stands in a document of a smaller number, sorted."""
REPEATED = pa.schema(
    [
        pa.field("number", pa.int64(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("span", pa.int32(), nullable=False),
    ]
)
"""Lines (or paragraphs: `span` lines from `line`) that stand in a document that comes before, or earlier in their own; sorted by (number, line)."""

Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Clusters:
    """Files of `CLUSTERS` as one mapping from documents to (survivor, size)."""

    def __init__(self, task: Task, shards: Sequence[Mapping[str, Any]]) -> None:
        self._files = [mapped(task, plain) for plain in shards]

    def of_range(self, first: int, last: int) -> Columns:
        """The members among documents `first` to `last` - 1."""
        found = [part for file in self._files if (part := read_range(file, "member", first, last)) and len(part["member"])]
        return {name: np.concatenate([part[name] for part in found] or [np.zeros(0, np.int64)]) for name in CLUSTERS.names}

    def drops(self, numbers: I64) -> Mask:
        """Which documents are members but not the survivor of their cluster."""
        gone = np.zeros(len(numbers), np.bool_)
        for file in self._files:
            if file:
                at = places_in(numbers, file["member"])
                gone |= (at >= 0) & (file["survivor"][at] != numbers)
        return gone


def write_clusters(task: Task, name: str, members: I64, survivors: I64, sizes: I64) -> None:
    """Write members sorted by number."""
    order = np.argsort(members, kind="stable")
    columns = {"member": members[order], "survivor": survivors[order], "size": np.minimum(sizes[order], 2**31 - 1)}
    write(task, name, CLUSTERS, columns)


def _equals(task: Task, starts: I64) -> Columns:
    """Partition `partition` of all files: rows whose hash stands more than once, sorted by hash, within it as they come; `number` is the document's."""
    parts: list[Columns] = []
    for place, rows in read_partition(task, task.argument["shards"], "high", task.argument["partition"], task.argument["partitions"]):
        parts.append({**rows, "number": rows["row"].astype(np.int64) + starts[place]})
    if not parts:
        return {name: np.zeros(0, np.uint64 if name in ("high", "low") else np.int64) for name in ("high", "low", "number", "line", "span")}
    names = [name for name in parts[0] if name != "row"]
    column = {name: np.concatenate([part[name] for part in parts]) for name in names}
    parts.clear()
    order = np.lexsort((column["low"], column["high"]))
    high, low = column["high"][order], column["low"][order]
    order = order[in_shared_runs(runs(high, low))]
    return {name: values[order] for name, values in column.items()}


def _alive(task: Task, documents: Documents, numbers: I64) -> tuple[Mask, I64, Ids]:
    """Of these documents: which neither a rule nor an earlier pass dropped; the ranks of their sources; their ids."""
    held = documents.columns(numbers, ("passed", "rank"))
    alive = held["passed"] != 0
    for shards in task.given["gone"]:
        alive &= ~Clusters(task, shards).drops(numbers)
    return alive, held["rank"].astype(np.int64), documents.ids(numbers)


def resolve(task: Task) -> None:
    """Worker: the clusters of equal texts (or addresses) of a partition."""
    documents = Documents(task, task.given["verdicts"])
    equal = _equals(task, documents.starts)
    alive, rank, ids = _alive(task, documents, equal["number"])
    order = np.lexsort((ids.low, ids.high, rank, ~alive, equal["low"], equal["high"]))
    number, alive = equal["number"][order], alive[order]
    starts = runs(equal["high"][order], equal["low"][order])
    sizes = np.diff(starts)
    first = number[starts[:-1]]
    living = np.add.reduceat(alive.astype(np.int64), starts[:-1]) if len(sizes) else sizes
    mine = alive & np.repeat(living > 1, sizes)
    write_clusters(task, "clusters", number[mine], np.repeat(first, sizes)[mine], np.repeat(living, sizes)[mine])
    heads = np.minimum.reduceat(number, starts[:-1]) if len(sizes) else sizes
    by_head = np.argsort(heads, kind="stable")
    write(task, "heads", HEADS, {"head": heads[by_head], "survivor": np.where(living > 0, first, -1)[by_head]})


def twins(task: Task) -> None:
    """Worker: the documents of a partition that are a copy of one before them, whatever is decided on either."""
    starts: I64 = np.concatenate([[0], np.cumsum(task.given["rows"])]).astype(np.int64)
    equal = _equals(task, starts)
    first = runs(equal["high"], equal["low"])[:-1]
    again = np.ones(len(equal["number"]), np.bool_)
    again[first] = False  # rows come in the order of their numbers
    write(task, "twins", TWINS, {"number": np.sort(equal["number"][again])})


def resolve_lines(task: Task) -> None:
    """Worker: the lines (or paragraphs) of a partition that stand in an earlier document, or earlier in their own."""
    documents = Documents(task, task.given["verdicts"])
    equal = _equals(task, documents.starts)
    alive, rank, ids = _alive(task, documents, equal["number"])
    line = equal["line"].astype(np.int64)
    order = np.lexsort((line, ids.low, ids.high, rank, equal["low"], equal["high"]))
    order = order[alive[order]]
    again = np.ones(len(order), np.bool_)
    again[runs(equal["high"][order], equal["low"][order])[:-1]] = False
    repeated = order[again]
    repeated = repeated[np.lexsort((line[repeated], equal["number"][repeated]))]
    span = equal["span"] if "span" in equal else np.ones(len(line), np.int64)
    write(task, "repeated", REPEATED, {"number": equal["number"][repeated], "line": line[repeated], "span": span[repeated]})
