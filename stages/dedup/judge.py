"""The map phases of dedup: a verdict on each document or pair by itself, and the hashes by which those that pass are compared.

cleaned documents, a batch at a time -> rules on columns, held-out, contaminated -> verdicts (row-aligned)
    of those that pass: addresses, whole texts, lines (128-bit hashes) and 14 MinHash bands, each cut into P partitions
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.manifest import Shard
from pipeline.tables import open_file, read_table, rows, utf8
from pipeline.task import Task
from pipeline.text import minhash
from pipeline.text.hashing import hash128
from stages.dedup.rows import I64, Ids, write_partitions
from stages.dedup.rules import Mask, columns_of, load

VERDICTS = pa.schema(
    [
        pa.field("id", pa.binary(16), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("lines", pa.int32(), nullable=False),
    ]
)
HASHES = pa.schema(
    [
        pa.field("hash", pa.binary(16), nullable=False),
        pa.field("id", pa.binary(16), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
    ]
)
BANDS = pa.schema([pa.field("hash", pa.uint64(), nullable=False), pa.field("id", pa.binary(16), nullable=False)])
WHOLE = -1
"""Line number that stands for the document as a whole."""


class _Evaluation:
    """What training must not hold: n-grams of evaluation text, held-out documents and their alignment groups."""

    def __init__(self, task: Task) -> None:
        shard = Shard(**task.given["contaminants"])
        self._hashes = read_table(task.storage.local(shard.path, shard.sha256))["hash"].to_numpy()
        self._lengths = list(task.given["ngram_lengths"])
        self._groups = pa.array(task.given["groups"], pa.string())
        self._documents = pa.array([bytes.fromhex(each) for each in task.given["documents"]], pa.binary(16))

    def is_group(self, column: pa.Array) -> Mask:
        return np.asarray(pa.compute.is_in(column, value_set=self._groups))

    def is_document(self, column: pa.Array) -> Mask:
        return np.asarray(pa.compute.is_in(column.cast(pa.binary(16)), value_set=self._documents))

    def contaminates(self, column: pa.Array) -> Mask:
        return minhash.shares_ngram(*utf8(column), self._hashes, self._lengths)


class _Hashes:
    """Gathers rows of (hash, id, rank, line) and writes them in partitions."""

    def __init__(self) -> None:
        self._parts: list[tuple[Ids, Ids, I64, I64]] = []

    def add(self, hashes: Ids, ids: Ids, ranks: I64, lines: I64) -> None:
        self._parts.append((hashes, ids, ranks, lines))

    def write(self, task: Task, name: str) -> None:
        hashes, ids = Ids.join([part[0] for part in self._parts]), Ids.join([part[1] for part in self._parts])
        ranks, lines = (np.concatenate([part[n] for part in self._parts] or [np.zeros(0, np.int64)]) for n in (2, 3))
        columns = {"hash": hashes, "id": ids, "rank": ranks, "line": lines}
        write_partitions(task, name, HASHES, hashes.high, columns, task.settings["partitions"])


def digests(column: pa.Array, key: str) -> Ids:
    """128-bit hashes of strings."""
    data, offsets = utf8(column)
    held, name = memoryview(np.ascontiguousarray(data).data), key.encode()
    found = b"".join(
        [blake2b(held[a:b], digest_size=16, key=name).digest() for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    )
    raw = np.frombuffer(found, ">u8").reshape(-1, 2)
    return Ids(raw[:, 0].astype(np.uint64), raw[:, 1].astype(np.uint64))


@cache
def rank_of(source: str, priority: tuple[str, ...]) -> int:
    """The rank of a source: that of the first pattern that matches its name; of duplicates the lowest rank stays."""
    return next((rank for rank, pattern in enumerate(priority) if fnmatchcase(source, pattern)), len(priority))


def _column(batch: pa.RecordBatch, name: str) -> np.ndarray[Any, Any]:
    """A column for the rules: integers as int64, strings as objects."""
    column = batch.column(name)
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)
    return np.array(column.to_pylist(), dtype=object)


def _reasons(batch: pa.RecordBatch, task: Task, names: tuple[str, ...], held: _Evaluation) -> tuple[np.ndarray[Any, Any], Mask]:
    """Why each document is dropped ("" if it is not), and whether it is held out."""
    reason = np.full(batch.num_rows, "", dtype=object)
    is_held = held.is_document(batch.column("id"))
    columns = {name: _column(batch, name) for name in columns_of(names)}
    for name, rule in load(names):
        for word, mask in rule(columns, task.settings.get(name) or {}):
            reason[mask & (reason == "")] = word
    reason[held.is_group(batch.column("group")) & (reason == "")] = "heldout_group"
    reason[held.contaminates(batch.column("text")) & (reason == "")] = "contaminated"
    reason[is_held] = ""
    return reason, is_held


def judge_documents(task: Task) -> None:
    """Worker: a verdict a document, and the hashes of those that pass."""
    names, priority = tuple(task.settings["rules"]), tuple(task.settings["priority"])
    held = _Evaluation(task)
    texts, addresses, lines = _Hashes(), _Hashes(), _Hashes()
    bands: list[tuple[Any, Ids]] = []
    wanted = dict.fromkeys(("id", "lang", "group", "source", "url", "text", *columns_of(names)))
    shard = Shard(**task.argument["shard"])
    reader = open_file(task.storage.local(shard.path, shard.sha256))
    with task.table("verdicts", VERDICTS) as table:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number).select(list(wanted))
            langs = batch.column("lang").to_pylist()
            taken = list(task.records(range(batch.num_rows), langs.__getitem__))
            if len(taken) < batch.num_rows:
                batch = batch.take(pa.array(taken, pa.int64()))
            if not batch.num_rows:
                continue
            reason, is_held = _reasons(batch, task, names, held)
            data, offsets = utf8(batch.column("text"))
            line_counts = minhash.count_lines(data, offsets)
            passed = (reason == "") & ~is_held
            some = np.flatnonzero(passed)
            if len(some):
                ids = Ids.of(batch.column("id"))
                sources = batch.column("source").to_pylist()
                ranks = np.array([rank_of(source, priority) for source in sources], np.int64)
                chosen = pa.array(some, pa.int64())
                texts.add(
                    digests(batch.column("text").take(chosen), "document"), ids[some], ranks[some], np.full(len(some), WHOLE, np.int64)
                )
                if task.settings["urls"]:
                    with_url = np.flatnonzero(passed & np.asarray(batch.column("url").is_valid()))
                    hashes = digests(batch.column("url").take(pa.array(with_url, pa.int64())), "url")
                    addresses.add(hashes, ids[with_url], ranks[with_url], np.full(len(with_url), WHOLE, np.int64))
                if task.settings["lines"] is not None:
                    line_text, line_number, first, second, _ = minhash.line_hashes(data, offsets, task.settings["lines"]["min_characters"])
                    mine = passed[line_text] & (line_counts[line_text] > 1)
                    lines.add(
                        Ids(first[mine], second[mine]), ids[line_text[mine]], ranks[line_text[mine]], line_number[mine].astype(np.int64)
                    )
                if task.settings["near"]:
                    found, shingles = minhash.band_hashes(data, offsets)
                    with_shingles = np.flatnonzero(passed & (shingles > 0))
                    bands.append((found[with_shingles].reshape(-1), ids[np.repeat(with_shingles, minhash.BANDS)]))
            split = np.where(is_held, "heldout", "train").astype(object)
            table.batch(
                {"id": batch.column("id"), "lang": batch.column("lang"), "reason": pa.array(reason, pa.string()), "split": pa.array(split, pa.string()),
                 "lines": pa.array(line_counts, pa.int32())}
            )  # fmt: skip
            for lang, count in Counter(batch.column("lang").to_pylist()).items():
                task.ledger.keep(lang, count)
    texts.write(task, "hashes")
    addresses.write(task, "urls")
    lines.write(task, "lines")
    values = np.concatenate([part[0] for part in bands] or [np.zeros(0, np.uint64)])
    write_partitions(
        task, "bands", BANDS, values, {"hash": values, "id": Ids.join([part[1] for part in bands])}, task.settings["partitions"]
    )


def judge_pairs(task: Task) -> None:
    """Worker: a verdict a pair, and the hashes of those that pass."""
    held = _Evaluation(task)
    shard = Shard(**task.argument["shard"])
    path = task.storage.local(shard.path, shard.sha256)
    hashes: list[bytes] = []
    ids: list[bytes] = []
    table_of_text = read_table(path, ("group", "text_a", "text_b"))
    groups = held.is_group(table_of_text["group"].combine_chunks())
    contaminated = held.contaminates(table_of_text["text_a"].combine_chunks()) | held.contaminates(table_of_text["text_b"].combine_chunks())
    with task.table("verdicts", VERDICTS) as table:
        for number, row in task.records(enumerate(rows(path)), lambda item: f"{item[1]['lang_a']}-{item[1]['lang_b']}"):
            a, b = row["text_a"], row["text_b"]
            reason = _pair_reason(a, b, task.settings["pairs"])
            if not reason and groups[number]:
                reason = "heldout_group"
            if not reason and contaminated[number]:
                reason = "contaminated"
            if not reason:
                hashes.append(hash128(f"{row['lang_a']}\0{row['lang_b']}\0{a}\0{b}", "pair"))
                ids.append(row["id"])
            name = f"{row['lang_a']}-{row['lang_b']}"
            table.row({"id": row["id"], "lang": name, "reason": reason, "split": "train", "lines": 1})
            task.ledger.keep(name)
    found = Ids.of(pa.array(hashes, pa.binary(16)))
    nothing = np.zeros(len(ids), np.int64)
    columns = {"hash": found, "id": Ids.of(pa.array(ids, pa.binary(16))), "rank": nothing, "line": nothing + WHOLE}
    write_partitions(task, "hashes", HASHES, found.high, columns, task.settings["partitions"])


def _pair_reason(a: str, b: str, bounds: Mapping[str, Any]) -> str:
    short, long = sorted((len(a), len(b)))
    if not short:
        return "empty_side"
    if a == b:
        return "identical_sides"
    if long > bounds["max_characters"]:
        return "too_long"
    if long >= 40 and long * 10_000 > short * round(bounds["max_length_ratio"] * 10_000):
        return "length_ratio"
    return ""
