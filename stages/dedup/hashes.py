"""The map phase of dedup that reads text: hashes by which documents are compared, and the columns by which they are judged.

    cleaned documents, a batch at a time -> columns (row-aligned: all but the text), sources
                                         -> addresses, whole texts, paragraphs, lines (128-bit hashes), 14 MinHash bands, each sorted by hash

It depends on the text and on what a hash is of, on no bound of a rule: decisions are redone from the columns, and text is not read again. All documents are hashed,
those too that a rule will drop: hashing only what passes would tie the hashes to the rules, and the costly hashes are made for whole batches anyway. What is
dropped is left out where hashes are compared. A row takes 24 bytes (bands 12): a hash, the document's row in its shard and a line number; ids stay in the columns.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.corpus import row_place
from pipeline.manifest import Shard
from pipeline.tables import open_file, utf8
from pipeline.task import Task
from pipeline.text import line_hashes, minhash
from stages.dedup.rows import I64, Ids, write

_HASH = [
    pa.field("high", pa.uint64(), nullable=False),
    pa.field("low", pa.uint64(), nullable=False),
    pa.field("row", pa.int32(), nullable=False),
]
HASHES = pa.schema(_HASH)
LINES = pa.schema([*_HASH, pa.field("line", pa.int32(), nullable=False)])
PARAGRAPHS = pa.schema([*_HASH, pa.field("line", pa.int32(), nullable=False), pa.field("span", pa.int32(), nullable=False)])
BANDS = pa.schema([pa.field("hash", pa.uint64(), nullable=False), pa.field("row", pa.int32(), nullable=False)])
SOURCES = pa.schema([pa.field("source", pa.string(), nullable=False)])
_LEFT_OUT = frozenset({"text", "source", "offset", "url", "licence"})


class Rows:
    """Gathers arrays of columns and writes them sorted by hash."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._parts: list[list[np.ndarray[Any, Any]]] = []

    def add(self, *columns: np.ndarray[Any, Any]) -> None:
        self._parts.append(list(columns))

    def write(self, task: Task, name: str) -> None:
        columns = [
            np.concatenate([part[n] for part in self._parts]) if self._parts else np.zeros(0, np.int64) for n in range(len(self._schema))
        ]
        order = np.argsort(columns[0], kind="stable")  # rows of one hash stay in the order of the documents
        write(task, name, self._schema, {field: column[order] for field, column in zip(self._schema.names, columns, strict=True)})


def digests(column: pa.Array, key: str) -> Ids:
    """128-bit hashes of strings."""
    data, offsets = utf8(column)
    held, name = memoryview(np.ascontiguousarray(data).data), key.encode()
    found = b"".join(
        [blake2b(held[a:b], digest_size=16, key=name).digest() for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    )
    raw = np.frombuffer(found, ">u8").reshape(-1, 2)
    return Ids(raw[:, 0].astype(np.uint64), raw[:, 1].astype(np.uint64))


def columns_schema(given: pa.Schema) -> pa.Schema:
    """The columns of cleaned documents that are no text, and what is added to them."""
    own = [
        pa.field("source_row", pa.int32(), nullable=False),
        pa.field("line_count", pa.int32(), nullable=False),
        pa.field("poison", pa.bool_(), nullable=False),
    ]
    return pa.schema([*(pa.field(f.name, f.type, f.nullable) for f in given if f.name not in _LEFT_OUT), *own])


def hash_documents(task: Task) -> None:
    """Worker: the hashes and the columns of one shard."""
    settings = task.settings
    shard = Shard(**task.argument["shard"])
    reader = open_file(task.storage.local(shard.path, shard.sha256))
    texts, urls, lines, paragraphs, bands = Rows(HASHES), Rows(HASHES), Rows(LINES), Rows(PARAGRAPHS), Rows(BANDS)
    sources: dict[str, int] = {}
    schema = columns_schema(reader.schema)
    base = 0
    with task.table("columns", schema) as table:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            langs = batch.column("lang").to_pylist()
            taken: I64 = np.fromiter(task.records(range(batch.num_rows), langs.__getitem__, partial(row_place, batch)), np.int64)
            line_counts = np.zeros(batch.num_rows, np.int64)
            if len(taken):
                part = batch if len(taken) == batch.num_rows else batch.take(pa.array(taken))
                rows = taken + base
                data, offsets = utf8(part.column("text"))
                text = digests(part.column("text"), "document")
                texts.add(text.high, text.low, rows)
                if settings["urls"]:
                    with_url = np.flatnonzero(np.asarray(part.column("url").is_valid()))
                    url = digests(part.column("url").take(pa.array(with_url, pa.int64())), "url")
                    urls.add(url.high, url.low, rows[with_url])
                if settings["line_characters"]:
                    text_of, line_of, first, second, counts = line_hashes.line_hashes(data, offsets, settings["line_characters"])
                    several = counts[text_of] > 1
                    lines.add(first[several], second[several], rows[text_of[several]], line_of[several])
                line_counts[taken] = line_hashes.line_counts(data, offsets)
                if settings["paragraph_characters"]:
                    text_of, line_of, spans, first, second, counts = line_hashes.paragraph_hashes(
                        data, offsets, settings["paragraph_characters"]
                    )
                    several = counts[text_of] > 1
                    paragraphs.add(first[several], second[several], rows[text_of[several]], line_of[several], spans[several])
                if settings["near"]:
                    found, shingles = minhash.band_hashes(data, offsets)
                    some = np.flatnonzero(shingles > 0)
                    bands.add(found[some].reshape(-1), np.repeat(rows[some], minhash.BANDS))
            poison = np.ones(batch.num_rows, np.bool_)
            poison[taken] = False
            table.batch(
                {
                    **{name: batch.column(name) for name in schema.names if name in batch.schema.names},
                    "source_row": pa.array(
                        [sources.setdefault(each, len(sources)) for each in batch.column("source").to_pylist()], pa.int32()
                    ),
                    "line_count": pa.array(line_counts, pa.int32()),
                    "poison": pa.array(poison),
                }
            )
            for lang, count in Counter(langs[row] for row in taken.tolist()).items():
                task.ledger.keep(lang, count)
            base += batch.num_rows
    with task.table("sources", SOURCES) as table:
        for source in sources:
            table.row({"source": source})
    texts.write(task, "texts")
    for name, gathered, wanted in (
        ("urls", urls, settings["urls"]),
        ("lines", lines, settings["line_characters"]),
        ("paragraphs", paragraphs, settings["paragraph_characters"]),
        ("bands", bands, settings["near"]),
    ):
        if wanted:
            gathered.write(task, name)
