"""Documents of one alignment group -> bitext.

    documents that have a group -> align (map): cut into P partitions by a hash of the group
        -> pair (reduce): partition p of all shards, sorted by (group, language, id); each language's text with that of the pivot's

The first document of a group and language, by id, stands for it; another one is dropped as `duplicate_key`. Every document is accounted for: `no_group`,
`duplicate_key`, `pivot_itself`, `no_counterpart` (no text of the pivot in its group), or kept as a pair. Pairs are put out in the order of (group, language), and
have the id of the text that is not the pivot's. A worker holds one partition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts import bitext, documents
from pipeline.ledger import Ledger, total
from pipeline.manifest import Shard
from pipeline.stage import Context, Output
from pipeline.storage import digest
from pipeline.tables import open_file
from pipeline.task import Task
from pipeline.text import languages
from pipeline.text.hashing import hash64, partition
from pipeline.units import Phase, Unit
from stages.ingest import Config

_COLUMNS = ("group", "lang", "id", "text", "source", "offset", "licence")


def _schema() -> pa.Schema:
    return pa.schema([documents.schema().field(name) for name in _COLUMNS])


def pair_aligned(config: Config, shards: Sequence[Shard], output: Output, context: Context) -> Ledger:
    """Bitext from documents that share an alignment group with one of the pivot language."""
    code = languages.lookup(config.pivot or "").code
    number = config.partitions
    align = Phase("align", "stages.ingest.aligned:align", {"partitions": number}, "documents")
    aligned = context.map(align, [Unit(s.sha256, {"shard": s.plain()}, s.bytes, f"documents shard {s.key[:12]}") for s in shards])
    files = [result.files["aligned"] for result in aligned if result.files["aligned"].rows]
    results = []
    if files:
        key, size = digest([s.sha256 for s in files]), sum(s.bytes for s in files) // number
        given = {"shards": [s.plain() for s in files]}
        phase = Phase("pair", "stages.ingest.aligned:pair", {"pivot": code, "max_shard_bytes": config.unit_bytes}, "documents")
        results = context.map(phase, [Unit(f"{key}:{p}", {"partition": p, **given}, size, f"aligned {p}") for p in range(number)])
    output.add("bitext", [shard for result in results for shard in result.parts("bitext") if shard.rows])
    ledger = total((result.ledger for result in (*aligned, *results)), "documents")
    ledger.check("ingest pairs", sum(s.rows for s in shards))
    return ledger


def align(task: Task) -> None:
    """Worker: the documents of a shard that have a group, in partitions."""
    shard = Shard(**task.argument["shard"])
    reader = open_file(task.storage.local(shard.path, shard.sha256))
    parts = task.settings["partitions"]
    held: list[pa.RecordBatch] = []
    numbers: list[Any] = []
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        langs = batch.column("lang").to_pylist()
        taken = list(task.records(range(batch.num_rows), langs.__getitem__))
        groups = batch.column("group").to_pylist()
        chosen = [row for row in taken if groups[row] is not None]
        for lang, count in Counter(langs[row] for row in taken if groups[row] is None).items():
            task.ledger.drop(lang, "no_group", count)
        if chosen:
            held.append(batch.select(list(_COLUMNS)).take(pa.array(chosen, pa.int64())))
            numbers.append(np.array([partition(hash64(groups[row], "group"), parts) for row in chosen], np.int64))
    with task.table("aligned", _schema()) as table:
        for part in range(parts if held else 0):
            batches = [batch.filter(pa.array(mine == part)) for batch, mine in zip(held, numbers, strict=True)]
            whole = pa.Table.from_batches(batches, schema=_schema()).combine_chunks()
            table.partition({name: whole[name].chunk(0) if whole.num_rows else [] for name in _COLUMNS})


def pair(task: Task) -> None:
    """Worker: the pairs of a partition."""
    number, pivot = task.argument["partition"], task.settings["pivot"]
    batches = []
    for plain in task.argument["shards"]:
        shard = Shard(**plain)
        batches.append(open_file(task.storage.local(shard.path, shard.sha256)).get_batch(number))
    # Views of the mapped files are sorted by key and read row by row, so that no text is copied before it is paired.
    every = pa.Table.from_batches(batches, schema=_schema())
    keys = every.select(["group", "lang", "id", "source"])  # a file that is there twice gives equal ids
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.schema.names])
    sorted_keys = keys.take(order)
    groups, langs, places = sorted_keys["group"].to_pylist(), sorted_keys["lang"].to_pylist(), order.to_pylist()
    find = _Finder(batches)
    ledger = task.ledger
    with task.cut_table("bitext", bitext.schema(), task.settings["max_shard_bytes"]) as table:
        rows = task.records(range(len(places)), langs.__getitem__)
        for _, members in groupby(rows, groups.__getitem__):
            first: dict[str, int] = {}
            for row in members:
                if first.setdefault(langs[row], row) != row:
                    ledger.drop(langs[row], "duplicate_key")
            middle = first.pop(pivot, None)
            if middle is None:
                for lang in first:
                    ledger.drop(lang, "no_counterpart")
                continue
            ledger.drop(pivot, "pivot_itself")
            other = find(places[middle])
            for lang, row in first.items():
                own = find(places[row])
                values = (own["id"], own["group"], lang, pivot, own["text"], other["text"], own["source"], own["offset"], own["licence"])
                table.row(values, len(own["text"].encode()) + len(other["text"].encode()))
                ledger.keep(lang)


class _Finder:
    """A row of several batches by its number over all of them."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._batches = [{name: batch.column(name) for name in _COLUMNS} for batch in batches]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])

    def __call__(self, row: int) -> dict[str, Any]:
        number = int(np.searchsorted(self._starts, row, "right")) - 1
        at = row - int(self._starts[number])
        return {name: column[at].as_py() for name, column in self._batches[number].items()}
