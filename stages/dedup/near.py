"""Near-duplicates over the whole corpus, in bounded memory (MinHash-LSH; see `pipeline.text.minhash`).

    bands, partition p of all shards -> runs of equal band hashes -> candidate pairs                (candidates, reduce)
    all candidate pairs              -> components; the pairs of a component share a part           (components, one unit, a file of pairs at a time)
    candidate pairs, partition p     -> cut by part                                                 (scatter, reduce)
    documents of those components    -> their distinct shingles, by part                            (shingles, map)
    a part                           -> true Jaccard of its pairs: edges                            (verify, reduce)
    edges of a part, verdicts        -> clusters of what is left, by union-find                     (join, reduce)

Only `join` looks at what was decided, so that a decision redone verifies nothing anew and reads no text. Of equal texts (`twins`) one stands for all; the one that is left of
them takes its place in `join`. Only documents that have a candidate are read again. A component lies in one part, so that a cluster never crosses parts. Documents of
one alignment group in different languages are translations, not duplicates: no edge joins them.

In a run of more than WINDOW equal hashes each member is paired with the WINDOW members behind it and with the first, not with all, so that a text that stands a million
times does not make 10^12 pairs: a chain of near-duplicates is still one component.

Memory: `candidates` 57 bytes a band hash of its partition (14 a document), 160 where half of them have an equal; `components` 9 bytes a document of the corpus (13 beyond 2^31),
so 1.5 GiB is passed at about 170 million documents, the pairs being mapped a file at a time; `verify` 125 bytes a pair of its part, and the shingles of as many documents at
a time as hold AT_ONCE (32 MiB); `join` 85 bytes an edge of its part. A component is not split: one of 12 million pairs passes 1.5 GiB.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.corpus import row_place
from pipeline.manifest import Shard
from pipeline.tables import open_file, utf8
from pipeline.task import Task
from pipeline.text import minhash
from pipeline.text import shingles as text_shingles
from stages.dedup.exact import Clusters, write_clusters
from stages.dedup.rows import I64, Columns, Documents, in_shared_runs, mapped, places_in, read_partition, read_range, runs, write

WINDOW = 16
STEP = 1 << 16
AT_ONCE = 1 << 22
PAIRS = pa.schema([pa.field(name, pa.int64(), nullable=False) for name in ("a", "b")])
"""Two document numbers, the smaller first; sorted, each pair once."""
PARTED = pa.schema([pa.field("part", pa.int32(), nullable=False), *PAIRS])
PARTS = pa.schema([pa.field("part", pa.int16(), nullable=False)])
"""The part of each document of the corpus, in order; -1: it has no candidate."""
SHINGLED = pa.schema(
    [
        pa.field("part", pa.int32(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
    ]
)
"""Whose shingles stand where in the file beside; sorted by (part, number)."""
SHINGLES = pa.schema([pa.field("shingle", pa.uint64(), nullable=False)])
EDGES = pa.schema([*PAIRS, pa.field("similarity", pa.int32(), nullable=False)])
"""Pairs that share a shingle, with their Jaccard similarity in 1/10,000."""


def _unique_pairs(a: I64, b: I64) -> tuple[I64, I64]:
    """Pairs with the smaller number first, sorted, each once."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    order = np.lexsort((high, low))
    low, high = low[order], high[order]
    first = runs(low, high)[:-1]
    return low[first], high[first]


def candidates(task: Task) -> None:
    """Worker: the pairs of documents that share a band hash of this partition; of equal texts only the first takes part."""
    starts: I64 = np.concatenate([[0], np.cumsum(task.given["rows"])]).astype(np.int64)
    hashes: list[Any] = []
    numbers: list[I64] = []
    for place, rows in read_partition(task, task.argument["shards"], "hash", task.argument["partition"], task.argument["partitions"]):
        hashes.append(rows["hash"])
        numbers.append(rows["row"].astype(np.int64) + starts[place])
    value = np.concatenate(hashes or [np.zeros(0, np.uint64)])
    number = np.concatenate(numbers or [np.zeros(0, np.int64)])
    order = np.argsort(value, kind="stable")  # within a run documents stay in the order of their numbers
    order = order[in_shared_runs(runs(value[order]))]  # most hashes stand once: they go before anything is looked up
    value, number = value[order], number[order]
    twin = np.zeros(len(number), np.bool_)
    for plain in task.given["twins"]:
        file = mapped(task, plain)
        if file:
            twin |= places_in(number, file["number"]) >= 0
    value, number = value[~twin], number[~twin]
    starts = runs(value)
    run = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    left, right = [starts[run]], [np.arange(len(value))]
    for step in range(1, min(WINDOW, max(1, len(value))) + 1):
        at = np.flatnonzero(run[step:] == run[:-step])
        left.append(at)
        right.append(at + step)
    a, b = number[np.concatenate(left)], number[np.concatenate(right)]
    a, b = _unique_pairs(a[a != b], b[a != b])
    write(task, "pairs", PAIRS, {"a": a, "b": b})


def components(task: Task) -> None:
    """Worker: in which part each document that has a candidate is verified: all those that are joined by pairs in the same."""
    documents = task.settings["documents"]
    root = np.arange(documents, dtype=np.int32 if documents < 2**31 else np.int64)
    has_pair = np.zeros(documents, np.bool_)
    pairs = 0
    for plain in task.argument["pairs"]:
        file = mapped(task, plain)
        if file:
            minhash.unite(root, file["a"], file["b"])
            has_pair[file["a"]] = has_pair[file["b"]] = True
            pairs += len(file["a"])
    minhash.name_roots(root)
    part = np.full(documents, -1, np.int16)
    for first in range(0, documents, STEP):
        some = np.flatnonzero(has_pair[first : first + STEP]) + first
        spread = (root[some].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
        part[some] = ((spread * np.uint64(task.settings["partitions"])) >> np.uint64(32)).astype(np.int16)
    write(task, "parts", PARTS, {"part": part})
    task.counts.update({"candidates": pairs, "documents": int(has_pair.sum())})


def scatter(task: Task) -> None:
    """Worker: one file of pairs, sorted by the part in which each is verified."""
    file = mapped(task, task.argument["pairs"])
    part = mapped(task, task.given["parts"])["part"][file["a"]] if file else np.zeros(0, np.int16)
    order = np.argsort(part, kind="stable")
    columns = {"part": part[order], **{name: file[name][order] if file else np.zeros(0, np.int64) for name in ("a", "b")}}
    write(task, "pairs", PARTED, columns)


def shingles(task: Task) -> None:
    """Worker: the distinct shingles of a shard's documents that have a candidate."""
    shard, base = Shard(**task.argument["shard"]), task.argument["base"]
    part_of = mapped(task, task.given["parts"])["part"][base : base + shard.rows]
    reader = open_file(task.storage.local(shard.path, shard.sha256))
    starts = np.cumsum([0, *(reader.get_batch(number).num_rows for number in range(reader.num_record_batches))])
    rows: dict[str, list[I64]] = {name: [] for name in SHINGLED.names}
    at = 0
    with task.table("shingles", SHINGLES, one_batch=True) as writer:
        values: list[Any] = []
        for number in range(reader.num_record_batches):
            mine = part_of[starts[number] : starts[number + 1]]
            batch = reader.get_batch(number)
            langs = batch.column("lang").to_pylist()
            some = np.fromiter(task.records(np.flatnonzero(mine >= 0).tolist(), langs.__getitem__, partial(row_place, batch)), np.int64)
            if not len(some):
                continue
            found, edges = text_shingles.distinct_shingles(*utf8(batch.column("text").take(pa.array(some))))
            values.append(found)
            for name, column in (
                ("part", mine[some]),
                ("number", some + starts[number] + base),
                ("start", edges[:-1] + at),
                ("end", edges[1:] + at),
            ):
                rows[name].append(column.astype(np.int64))
            at += len(found)
        writer.partition({"shingle": np.concatenate([*values, np.zeros(0, np.uint64)])})
    columns = {name: np.concatenate([*parts, np.zeros(0, np.int64)]) for name, parts in rows.items()}
    order = np.argsort(columns["part"], kind="stable")
    write(task, "shingled", SHINGLED, {name: column[order] for name, column in columns.items()})


def verify(task: Task) -> None:
    """Worker: the pairs of a part that share a shingle, with their true similarity."""
    number = task.argument["partition"]
    parts = [read_range(mapped(task, plain), "part", number, number + 1) for plain in task.given["pairs"]]
    a, b = _unique_pairs(*(np.concatenate([np.zeros(0, np.int64), *(part[name] for part in parts if part)]) for name in ("a", "b")))
    held = _Shingles(task, number)
    at_a, at_b = places_in(a, held.numbers), places_in(b, held.numbers)
    there = (at_a >= 0) & (at_b >= 0)  # all but those that were quarantined
    a, b, similarity = a[there], b[there], held.jaccard(at_a[there], at_b[there])
    some = similarity > 0
    write(task, "edges", EDGES, {"a": a[some], "b": b[some], "similarity": similarity[some]})
    task.counts["pairs"] = len(a)


class _Shingles:
    """The shingles of a part's documents, in mapped files: read for so many pairs at a time as hold AT_ONCE of them."""

    def __init__(self, task: Task, number: int) -> None:
        rows: list[Columns] = []
        places: list[I64] = []
        self._values: list[Any] = []
        for place, (plain, values) in enumerate(zip(task.given["shingled"], task.argument["shards"], strict=True)):
            mine = read_range(mapped(task, plain), "part", number, number + 1)
            file = mapped(task, values) if mine and len(mine["number"]) else {}
            self._values.append(file["shingle"] if file else np.zeros(0, np.uint64))
            if mine:
                rows.append(mine)
                places.append(np.full(len(mine["number"]), place))
        nothing = np.zeros(0, np.int64)
        # Ascending, as shards and their rows come in order.
        self.numbers, self._starts, self._ends = (
            np.concatenate([nothing, *(row[name] for row in rows)]) for name in ("number", "start", "end")
        )
        self._places = np.concatenate([nothing, *places])

    def jaccard(self, a: I64, b: I64) -> I64:
        """Similarity of documents by their places in `numbers`, in 1/10,000."""
        lengths = self._ends - self._starts
        load = np.cumsum(lengths[a] + lengths[b])
        cuts = np.searchsorted(load, np.arange(0, int(load[-1]) if len(load) else 0, AT_ONCE), "left")
        found = [self._of(a[first:last], b[first:last]) for first, last in pairwise([*np.unique(cuts).tolist(), len(a)])]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def _of(self, a: I64, b: I64) -> I64:
        some = np.unique(np.concatenate([a, b]))
        spans = zip(self._places[some].tolist(), self._starts[some].tolist(), self._ends[some].tolist(), strict=True)
        values = np.concatenate([np.zeros(0, np.uint64), *(self._values[place][start:end] for place, start, end in spans)])
        starts = np.concatenate([[0], np.cumsum(self._ends[some] - self._starts[some])]).astype(np.int64)
        found: I64 = minhash.jaccard(values, starts, np.searchsorted(some, np.column_stack([a, b])))
        return found


def _left_of(task: Task, documents: Documents, numbers: I64) -> I64:
    """What is left of each document's text after rules, addresses and exact duplicates: the document that has it, or -1."""
    passed = documents.columns(numbers, ("passed",))["passed"] != 0
    for shards in task.given["gone"]:
        passed &= ~Clusters(task, shards).drops(numbers)
    left = np.where(passed, numbers, -1)
    for plain in task.given["heads"]:
        file = mapped(task, plain)
        if file:
            at = places_in(numbers, file["head"])
            left[at >= 0] = file["survivor"][at[at >= 0]]
    return left


def join(task: Task) -> None:
    """Worker: the clusters of a part, from the edges between documents that are left."""
    file = mapped(task, task.argument["edges"])
    documents = Documents(task, task.given["verdicts"])
    edges = _edges(task, documents, file) if file else np.zeros((0, 2), np.int64)
    members = np.unique(edges)
    held = documents.columns(members, ("rank",))
    ids = documents.ids(members)
    # Numbered by (rank, id), the smallest of a component is its survivor.
    by_rank = np.lexsort((ids.low, ids.high, held["rank"]))
    place: I64 = np.empty(len(members), np.int64)
    place[by_rank] = np.arange(len(members))
    root = minhash.components(len(members), place[np.searchsorted(members, edges)])
    sizes = np.bincount(root, minlength=len(members))
    ranked = members[by_rank]
    write_clusters(task, "clusters", ranked, ranked[root], sizes[root])
    task.counts["verified"] = len(edges)


def _edges(task: Task, documents: Documents, file: Columns) -> I64:
    alike = file["similarity"] >= round(task.settings["min_similarity"] * 10_000)
    a, b = (_left_of(task, documents, file[name][alike]) for name in ("a", "b"))
    there = (a >= 0) & (b >= 0) & (a != b)
    a, b = a[there], b[there]
    about = [documents.columns(numbers, ("group", "lang_hash")) for numbers in (a, b)]
    other_language = about[0]["lang_hash"] != about[1]["lang_hash"]
    keep = ~(other_language & (about[0]["group"] != 0) & (about[0]["group"] == about[1]["group"]))
    if not task.settings["across_languages"]:
        keep &= ~other_language
    return np.column_stack([a[keep], b[keep]])
