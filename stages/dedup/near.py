"""Near-duplicates over the whole corpus, in bounded memory (MinHash-LSH; see `pipeline.text.minhash`).

    bands, partition p of all shards -> runs of equal band hashes -> candidate pairs            (candidates, reduce)
    all candidate pairs              -> components; the pairs of a component share a part       (components, one unit)
    documents of those components    -> their distinct shingles, cut into parts                 (shingles, map)
    a part                           -> true Jaccard of its pairs -> clusters of verified edges (verify, reduce)

Only documents that have a candidate are read again. A component lies in one part, so that a cluster never crosses parts. Documents of one alignment group in different
languages are translations, not duplicates: no edge joins them.

In a run of more than WINDOW equal hashes each member is paired with the WINDOW members behind it in the order of ids and with the first, not with all, so that a text
that stands a million times does not make 10^12 pairs: a chain of near-duplicates is still one component.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.corpus import place
from pipeline.manifest import Shard
from pipeline.tables import open_file, read_table, utf8
from pipeline.task import Task
from pipeline.text import minhash
from pipeline.text.hashing import hash64
from stages.dedup.exact import Clusters, write_clusters
from stages.dedup.judge import rank_of
from stages.dedup.rows import I64, Ids, partition_of, read_partition, runs

WINDOW = 16
_U64 = pa.uint64()
PAIRS = pa.schema([pa.field(name, _U64, nullable=False) for name in ("a_high", "a_low", "b_high", "b_low")])
MEMBERS = pa.schema([*(pa.field(name, _U64, nullable=False) for name in ("high", "low")), pa.field("part", pa.int32(), nullable=False)])
SHINGLES = pa.schema(
    [
        *(pa.field(name, _U64, nullable=False) for name in ("high", "low", "group", "lang")),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("shingles", pa.large_list(_U64), nullable=False),
    ]
)


def _unique_pairs(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    """Pairs with the smaller id first, sorted, each once."""
    swap = (a.high > b.high) | ((a.high == b.high) & (a.low > b.low))
    low = Ids(np.where(swap, b.high, a.high), np.where(swap, b.low, a.low))
    high = Ids(np.where(swap, a.high, b.high), np.where(swap, a.low, b.low))
    order = np.lexsort((high.low, high.high, low.low, low.high))
    low, high = low[order], high[order]
    first = runs(low.high, low.low, high.high, high.low)[:-1]
    return low[first], high[first]


def _plain_pairs(a: Ids, b: Ids) -> dict[str, Any]:
    return {"a_high": a.high, "a_low": a.low, "b_high": b.high, "b_low": b.low}


def candidates(task: Task) -> None:
    """Worker: the pairs of documents that share a band hash of this partition, those gone aside."""
    hashes: list[Any] = []
    ids: list[Ids] = []
    gone = [Clusters(task, shards) for shards in task.given["gone"]]
    for batch in read_partition(task, task.argument["shards"], task.argument["partition"]):
        values, mine = batch.column("hash").to_numpy(), Ids.of(batch.column("id"))
        hashes.append(values)
        ids.append(mine)
    value, every = np.concatenate(hashes or [np.zeros(0, np.uint64)]), Ids.join(ids)
    order = np.argsort(value, kind="stable")
    value, every = value[order], every[order]
    # Most hashes stand once: they go before anything is looked up.
    equal = value[1:] == value[:-1]
    shared = np.zeros(len(value), np.bool_)
    shared[1:] |= equal
    shared[:-1] |= equal
    value, every = value[shared], every[shared]
    for clusters in gone:
        keep = ~clusters.drops(every)
        value, every = value[keep], every[keep]
    order = np.lexsort((every.low, every.high, value))
    value, every = value[order], every[order]
    starts = runs(value)
    run = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    left, right = [starts[run]], [np.arange(len(value))]
    for step in range(1, min(WINDOW, max(1, len(value))) + 1):
        at = np.flatnonzero(run[step:] == run[:-step])
        left.append(at)
        right.append(at + step)
    a, b = np.concatenate(left), np.concatenate(right)
    differ = (every.high[a] != every.high[b]) | (every.low[a] != every.low[b])
    one, other = _unique_pairs(every[a[differ]], every[b[differ]])
    with task.table("pairs", PAIRS, one_batch=True) as table:
        table.partition(_plain_pairs(one, other))


def _read_pairs(task: Task, shards: list[dict[str, Any]]) -> tuple[Ids, Ids]:
    tables = [read_table(task.storage.local(shard.path, shard.sha256)) for plain in shards if (shard := Shard(**plain)).rows]
    columns = [np.concatenate([table[name].to_numpy() for table in tables] or [np.zeros(0, np.uint64)]) for name in PAIRS.names]
    return Ids(columns[0], columns[1]), Ids(columns[2], columns[3])


def components(task: Task) -> None:
    """Worker: which documents have a candidate and in which part they are verified; the pairs by part."""
    a, b = _unique_pairs(*_read_pairs(task, task.argument["pairs"]))
    both = Ids.join([a, b])
    order = np.lexsort((both.low, both.high))
    both = both[order]
    members = both[runs(both.high, both.low)[:-1]]
    edges = np.column_stack([a.places_in(members), b.places_in(members)])
    root = minhash.components(len(members), edges)
    parts = task.settings["partitions"]
    part = partition_of(members.high[root], parts)
    with task.table("members", MEMBERS, one_batch=True) as table:
        table.partition({"high": members.high, "low": members.low, "part": part.astype(np.int32)})
    part_of_pair = part[edges[:, 0]]
    with task.table("pairs", PAIRS) as table:
        for number in range(parts):
            mine = np.flatnonzero(part_of_pair == number)
            table.partition(_plain_pairs(a[mine], b[mine]))
    task.counts.update({"candidates": len(a), "documents": len(members)})


def shingles(task: Task) -> None:
    """Worker: the distinct shingles of a shard's documents that have a candidate."""
    shard, known = Shard(**task.argument["shard"]), Shard(**task.given["members"])
    table = read_table(task.storage.local(known.path, known.sha256))
    members = Ids(table["high"].combine_chunks().to_numpy(), table["low"].combine_chunks().to_numpy())
    part_of = table["part"].combine_chunks().to_numpy()
    priority, parts = tuple(task.settings["priority"]), task.settings["partitions"]
    found: list[list[pa.RecordBatch]] = [[] for _ in range(parts)]
    reader = open_file(task.storage.local(shard.path, shard.sha256))
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        at = Ids.of(batch.column("id")).places_in(members)
        langs = batch.column("lang").to_pylist()
        taken = list(task.records(np.flatnonzero(at >= 0).tolist(), langs.__getitem__, partial(place, batch)))
        left_out = np.ones(len(at), np.bool_)
        left_out[taken] = False
        at[left_out] = -1
        for part in np.unique(part_of[at[at >= 0]]).tolist():
            rows = np.flatnonzero((at >= 0) & (part_of[at] == part))
            mine = batch.take(pa.array(rows, pa.int64()))
            values, starts = minhash.distinct_shingles(*utf8(mine.column("text")))
            groups = mine.column("group").to_pylist()
            found[part].append(
                pa.record_batch(
                    [
                        pa.array(members.high[at[rows]]), pa.array(members.low[at[rows]]),
                        pa.array([hash64(group, "group") if group is not None else 0 for group in groups], _U64),
                        pa.array([hash64(lang, "lang") for lang in mine.column("lang").to_pylist()], _U64),
                        pa.array([rank_of(source, priority) for source in mine.column("source").to_pylist()], pa.int32()),
                        pa.LargeListArray.from_arrays(pa.array(starts, pa.int64()), pa.array(values, _U64)),
                    ],
                    schema=SHINGLES,
                )
            )  # fmt: skip
    with task.table("shingles", SHINGLES) as writer:
        for batches in found:
            writer.partition(_one(batches))


def _one(batches: list[pa.RecordBatch]) -> dict[str, Any]:
    table = pa.Table.from_batches(batches, schema=SHINGLES).combine_chunks()
    return {
        name: (column.chunk(0) if column.num_chunks else pa.array([], column.type))
        for name, column in zip(table.schema.names, table.columns, strict=True)
    }


def verify(task: Task) -> None:
    """Worker: the clusters of a part, from the pairs that are alike enough in truth."""
    number = task.argument["part"]
    batches = list(read_partition(task, task.argument["shards"], number))
    table = pa.Table.from_batches(batches, schema=SHINGLES)
    column = {name: table[name].to_numpy() for name in ("high", "low", "group", "lang", "rank")}
    ids = Ids(column["high"], column["low"])
    order = np.lexsort((ids.low, ids.high))
    sorted_ids = ids[order]
    pairs = Shard(**task.argument["pairs"])
    batch = open_file(task.storage.local(pairs.path, pairs.sha256)).get_batch(number)
    halves = [batch.column(name).to_numpy() for name in PAIRS.names]
    a, b = (Ids(*half).places_in(sorted_ids) for half in (halves[:2], halves[2:]))
    there = (a >= 0) & (b >= 0)  # all but those that were quarantined
    a, b = order[a[there]], order[b[there]]
    translations = (column["group"][a] != 0) & (column["group"][a] == column["group"][b]) & (column["lang"][a] != column["lang"][b])
    edges = np.column_stack([a, b])[~translations]
    values, starts = _flat(table)
    similar = edges[minhash.jaccard(values, starts, edges) >= round(task.settings["min_similarity"] * 10_000)]
    # Numbered by (rank, id), the smallest of a component is its survivor.
    by_rank = np.lexsort((ids.low, ids.high, column["rank"]))
    place: I64 = np.empty(len(ids), np.int64)
    place[by_rank] = np.arange(len(ids))
    root = minhash.components(len(ids), place[similar]) if len(ids) else np.zeros(0, np.int64)
    sizes = np.bincount(root, minlength=len(ids))
    ranked = ids[by_rank]
    mine = np.flatnonzero(sizes[root] > 1)
    write_clusters(task, "clusters", ranked[mine], ranked[root[mine]], sizes[root[mine]])
    task.counts.update({"pairs": len(edges), "verified": len(similar)})


def _flat(table: pa.Table) -> tuple[Any, I64]:
    """All shingles one behind the other, and where each document's begin."""
    values = [chunk.flatten().to_numpy() for chunk in table["shingles"].chunks]
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in table["shingles"].chunks]
    every = np.concatenate(lengths or [np.zeros(0, np.int64)])
    return np.concatenate(values or [np.zeros(0, np.uint64)]), np.concatenate([[0], np.cumsum(every)]).astype(np.int64)
