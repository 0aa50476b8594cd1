"""Exact duplicates: who is the first of each set of equals, partition by partition.

    hashes, partition p of all shards -> sorted by (hash, rank, id, line) -> runs of equals -> those with more than one member

The first of equals has the smallest (rank of its source, id, line), whatever the order in which anything ran. What an earlier pass dropped takes no part, so that
nothing is dropped in favour of what is gone itself: addresses, then whole texts, then near-duplicates, then lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.manifest import Shard
from pipeline.tables import read_table
from pipeline.task import Task
from stages.dedup.rows import I64, Ids, read_partition, runs

CLUSTERS = pa.schema(
    [
        *(pa.field(name, pa.uint64(), nullable=False) for name in ("high", "low", "survivor_high", "survivor_low")),
        pa.field("size", pa.int32(), nullable=False),
    ]
)
"""Members of clusters of more than one, sorted by id: 64-bit halves, so that a mapped file is searched without a copy."""
REPEATED_LINES = pa.schema(
    [*(pa.field(name, pa.uint64(), nullable=False) for name in ("high", "low")), pa.field("line", pa.int32(), nullable=False)]
)


class Clusters:
    """Files of `CLUSTERS`, each sorted by id, as one mapping from ids to (survivor, size)."""

    def __init__(self, task: Task, shards: Sequence[Mapping[str, Any]]) -> None:
        self._files = []
        for plain in shards:
            shard = Shard(**plain)
            if shard.rows:
                table = read_table(task.storage.local(shard.path, shard.sha256))
                self._files.append({name: table[name].combine_chunks().to_numpy() for name in table.schema.names})

    def find(self, ids: Ids) -> tuple[I64, Ids, I64]:
        """For ids that are members: their rows in `ids`, their survivors, the sizes of their clusters."""
        found: list[I64] = []
        survivors: list[Ids] = []
        sizes: list[I64] = []
        for file in self._files:
            at = ids.places_in(Ids(file["high"], file["low"]))
            mine = np.flatnonzero(at >= 0)
            found.append(mine)
            survivors.append(Ids(file["survivor_high"][at[mine]], file["survivor_low"][at[mine]]))
            sizes.append(file["size"][at[mine]].astype(np.int64))
        if not found:
            return np.zeros(0, np.int64), Ids.none(), np.zeros(0, np.int64)
        return np.concatenate(found), Ids.join(survivors), np.concatenate(sizes)

    def drops(self, ids: Ids) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which ids are members but not the survivor of their cluster."""
        gone = np.zeros(len(ids), np.bool_)
        rows, survivors, _ = self.find(ids)
        mine = ids[rows]
        gone[rows] = (survivors.high != mine.high) | (survivors.low != mine.low)
        return gone


def write_clusters(task: Task, name: str, ids: Ids, survivors: Ids, sizes: I64) -> None:
    """Write members sorted by id."""
    order = np.lexsort((ids.low, ids.high))
    columns = {
        "high": ids.high[order], "low": ids.low[order], "survivor_high": survivors.high[order], "survivor_low": survivors.low[order],
        "size": np.minimum(sizes[order], 2**31 - 1).astype(np.int32),
    }  # fmt: skip
    with task.table(name, CLUSTERS, one_batch=True) as table:
        table.partition(columns)


def _gather(task: Task) -> tuple[Ids, Ids, I64, I64]:
    """Partition `partition` of all shards without what is gone, sorted by (hash, rank, id, line)."""
    hashes: list[Ids] = []
    ids: list[Ids] = []
    ranks: list[Any] = []
    lines: list[Any] = []
    gone = [Clusters(task, shards) for shards in task.given["gone"]]
    for batch in read_partition(task, task.argument["shards"], task.argument["partition"]):
        mine = Ids.of(batch.column("id"))
        keep = np.ones(len(mine), np.bool_)
        for clusters in gone:
            keep &= ~clusters.drops(mine)
        rows = np.flatnonzero(keep)
        hashes.append(Ids.of(batch.column("hash"))[rows])
        ids.append(mine[rows])
        ranks.append(batch.column("rank").to_numpy()[rows])
        lines.append(batch.column("line").to_numpy()[rows])
    every_hash, every_id = Ids.join(hashes), Ids.join(ids)
    rank, line = (np.concatenate(parts or [np.zeros(0, np.int32)]).astype(np.int64) for parts in (ranks, lines))
    order = np.lexsort((line, every_id.low, every_id.high, rank, every_hash.low, every_hash.high))
    return every_hash[order], every_id[order], rank[order], line[order]


def resolve(task: Task) -> None:
    """Worker: the clusters of equal texts (or addresses) of a partition."""
    hashes, ids, _, _ = _gather(task)
    starts = runs(hashes.high, hashes.low)
    sizes = np.diff(starts)
    first = np.repeat(starts[:-1], sizes)
    several = np.repeat(sizes > 1, sizes)
    write_clusters(task, "clusters", ids[several], ids[first[several]], np.repeat(sizes, sizes)[several])


def resolve_lines(task: Task) -> None:
    """Worker: the lines of a partition that stand in an earlier document, or earlier in their own."""
    hashes, ids, _, line = _gather(task)
    starts = runs(hashes.high, hashes.low)
    again = np.ones(len(ids), np.bool_)
    again[starts[:-1]] = False
    repeated = np.flatnonzero(again)
    order = repeated[np.lexsort((line[repeated], ids.low[repeated], ids.high[repeated]))]
    with task.table("repeated", REPEATED_LINES, one_batch=True) as table:
        table.partition({"high": ids.high[order], "low": ids.low[order], "line": line[order].astype(np.int32)})
