"""The worker side of card: some shards in, sums, histograms and samples out, as plain data in the record of the unit.

    documents as read                -> records, bytes, characters, licences, files               read_documents
    cleaned documents ⋈ decisions    -> what is kept and dropped, lengths, confidence, samples    decided_documents
    bitext as read, cleaned bitext ⋈ decisions of pairs: the same by pair of languages            read_pairs, decided_pairs

Whole columns go through Arrow and numpy; only kept documents that lost lines, and samples, are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpus import kept_text
from pipeline.errors import IntegrityError
from pipeline.manifest import Shard
from pipeline.tables import open_file, read_table, utf8
from pipeline.task import Task
from stages.card.samples import Bounds, Samples, keyed, rows_of
from stages.card.tally import CLUSTER_EDGES, CONFIDENCE_EDGES, DUPLICATES, I64, LENGTH_EDGES, NEAR, OTHERS, Keys, Mask, Tally, became

MOST_LICENCES = 1000
"""Licences told apart in one unit; a column that holds something else in every row must not fill the memory."""


def batches(task: Task, plain: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
    """The record batches of a shard that hold rows."""
    shard = Shard(**plain)
    reader = open_file(task.storage.local(shard.path, shard.sha256))
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        if batch.num_rows:
            yield batch


def whole(column: pa.Array) -> I64:
    """A column of whole numbers."""
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)


def lengths(column: pa.Array) -> tuple[I64, I64]:
    """UTF-8 bytes and code points of each text."""
    return whole(pc.binary_length(column)), whole(pc.utf8_length(column))


def put(task: Task, tally: Tally, count: str, **parts: Any) -> None:
    """The part of a unit stands in its unit's record: it is small, and one file is published where two would be. Rows are counted in the unit's ledger."""
    for lang, number in sorted(tally.column(count).items()):
        task.ledger.keep(lang, number)
    task.counts.update({"tally": tally.plain(), **parts})


# ---------------------------------------------------------------- as read


def read_documents(task: Task) -> None:
    """Worker: documents as `ingest` gave them."""
    _read(task, ("text",))


def read_pairs(task: Task) -> None:
    """Worker: bitext as `ingest` gave it."""
    _read(task, ("text_a", "text_b"))


def _read(task: Task, texts: tuple[str, ...]) -> None:
    tally, licences, files = Tally(), Tally(), Tally()
    for batch in (batch for plain in task.argument["shards"] for batch in batches(task, plain["text"])):
        langs = Keys.of(batch.column("lang")) if len(texts) == 1 else pair_keys(batch)
        source, licence = Keys.of(batch.column("source")), Keys.of(batch.column("licence"))
        tally.add(langs, "read")
        files.add(source, "records")
        for name in texts:
            size, characters = lengths(batch.column(name))
            tally.add(langs, "bytes_in", size)
            tally.add(langs, "characters_in", characters)
            files.add(source, "bytes", size)
        for number, stated in enumerate(licence.names):
            own = licences.sums.setdefault(stated if stated in licences.sums or len(licences.sums) < MOST_LICENCES else OTHERS, {})
            for lang, count in Keys(langs.names, langs.index[licence.index == number]).counts().items():
                own[lang] = own.get(lang, 0) + count
    put(task, tally, "read", licences=licences.sums, files=files.sums)


def pair_keys(batch: pa.RecordBatch) -> Keys:
    """`a-b` of each pair."""
    return Keys.of(batch.column("lang_a")).joined(Keys.of(batch.column("lang_b")), "-")


# ---------------------------------------------------------------- as decided


def decided(task: Task) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Batches of text with the decisions on them.

    Raises:
        IntegrityError: a row's ids differ.
    """
    for plain in task.argument["shards"]:
        made = Shard(**plain["decisions"])
        table = read_table(task.storage.local(made.path, made.sha256))
        at = 0
        for batch in batches(task, plain["text"]):
            decision = table.slice(at, batch.num_rows).combine_chunks().to_batches()[0]
            at += batch.num_rows
            if not batch.column("id").cast(pa.binary(16)).equals(decision.column("id").cast(pa.binary(16))):
                raise IntegrityError(f"{made.path}: its rows are not those of {plain['text']['path']}", path=made.path)
            yield batch, decision


class _Outcome:
    """The decisions on a batch as arrays."""

    def __init__(self, batch: pa.RecordBatch, decision: pa.RecordBatch, langs: Keys) -> None:
        self.langs, self._batch = langs, batch
        self.keep: Mask = np.asarray(decision.column("keep").to_numpy(zero_copy_only=False), np.bool_)
        self.reason = Keys.of(decision.column("reason"))
        self.is_heldout = Keys.of(decision.column("split")).is_("heldout")
        self.dropped_lines = decision.column("dropped_lines")
        self.raw_ids = _halves(batch.column("id"))
        self.cluster_size = whole(decision.column("cluster_size"))
        # Documents of equal files under other names have equal ids: the one that went for another is no survivor all the same.
        self.is_survivor: Mask = (_halves(decision.column("cluster")) == self.raw_ids).all(axis=1)
        for reason in (*DUPLICATES, NEAR):
            self.is_survivor &= ~self.reason.is_(reason)

    def count(self, tally: Tally, characters: I64) -> None:
        """What is the same for documents and pairs."""
        tally.add(self.langs, "decided")
        tally.add(self.langs, "kept", where=self.keep)
        tally.add(self.langs, "characters_cleaned", characters)
        tally.spread(self.langs, "clusters", self.cluster_size, CLUSTER_EDGES, self.is_survivor & (self.cluster_size > 1))
        for reason in self.reason.names:
            if reason:
                mine = self.reason.is_(reason)
                tally.add(self.langs, f"{became(reason)} {reason}", where=mine)
                tally.add(self.langs, f"{became(reason)}_characters {reason}", characters, mine)

    def sample(self, samples: Samples, texts: tuple[str, ...], most: int) -> None:
        """Consider the dropped rows of this batch as samples."""
        dropped = np.flatnonzero(~self.keep)
        if not len(dropped):
            return
        hashes = keyed(self.raw_ids)
        chosen = rows_of(self.reason, self.langs, hashes, dropped, samples.bounds)
        shown = [name for name in ("source", "offset", *texts, "identified", "identified_score") if name in self._batch.schema.names]
        rows = self._batch.select(["id", *shown]).take(pa.array(chosen, pa.int64())).to_pylist()
        by_reason: dict[str, list[dict[str, Any]]] = {}
        for number, row in zip(chosen.tolist(), rows, strict=True):
            sample = {name: row[name] for name in shown} | {"id": row["id"].hex(), "hash": int(hashes[number])}
            sample["lang"] = self.langs.names[self.langs.index[number]]
            for name in texts:
                sample[name] = row[name] if len(row[name]) <= most else row[name][: most - 1] + "…"
            by_reason.setdefault(self.reason.names[self.reason.index[number]], []).append(sample)
        for reason, found in by_reason.items():
            samples.add(reason, found)


def _halves(column: pa.Array) -> np.ndarray[Any, Any]:
    """16-byte ids as two numbers each, shape (rows, 2)."""
    flat = column.cast(pa.binary(16))
    return np.frombuffer(flat.buffers()[1], ">u8")[2 * flat.offset : 2 * (flat.offset + len(flat))].reshape(-1, 2)


def decided_documents(task: Task) -> None:
    """Worker: cleaned documents and the decisions on them."""
    tally, other = Tally(), Tally()
    samples = Samples(Bounds(task.settings["samples"], task.settings["samples_per_language"]))
    for batch, decision in decided(task):
        names = set(batch.schema.names)
        outcome = _Outcome(batch, decision, Keys.of(batch.column("lang")))
        langs, keep = outcome.langs, outcome.keep
        size, characters = lengths(batch.column("text"))
        words = whole(batch.column("words")) if "words" in names else None
        outcome.count(tally, characters)
        tally.add(langs, "heldout", where=keep & outcome.is_heldout)
        tally.spread(langs, "lengths", characters, LENGTH_EDGES)
        tally.spread(langs, "lengths_kept", characters, LENGTH_EDGES, keep)
        removed = whole(pc.list_value_length(outcome.dropped_lines).fill_null(0))
        tally.add(langs, "dropped_lines", removed, keep)
        left = _left(batch, outcome, np.flatnonzero(keep & (removed > 0)), size, characters, words)
        for name, values, rest in zip(("bytes", "characters", "words"), (size, characters, words), left, strict=True):
            if values is not None and rest is not None:
                tally.add(langs, f"{name}_kept", rest, keep)
        if words is not None:
            tally.add(langs, "words_in", words)
        if {"identified", "identified_score"} <= names:
            _confidence(batch, langs, tally, other)
        outcome.sample(samples, ("text",), task.settings["sample_characters"])
    put(task, tally, "decided", identified=other.sums, samples=samples.by_reason)


def _left(batch: pa.RecordBatch, outcome: _Outcome, cut: I64, size: I64, characters: I64, words: I64 | None) -> tuple[I64, I64, I64 | None]:
    """Bytes, characters and words of each document without the lines that were taken out of the rows `cut`."""
    if not len(cut):
        return size, characters, words
    rows = pa.array(cut, pa.int64())
    texts = zip(batch.column("text").take(rows).to_pylist(), outcome.dropped_lines.take(rows).to_pylist(), strict=True)
    rest = pa.array([kept_text(text, lines) for text, lines in texts], pa.large_string())
    size, characters = size.copy(), characters.copy()
    size[cut], characters[cut] = lengths(rest)
    if words is not None:
        from pipeline.text.measures import Measurer  # its tables take a moment, and few shards need them

        words = words.copy()
        words[cut] = Measurer().measure(*utf8(rest), [outcome.langs.names[n] for n in outcome.langs.index[cut]])["words"]
    return size, characters, words


def _confidence(batch: pa.RecordBatch, langs: Keys, tally: Tally, other: Tally) -> None:
    found, score = Keys.of(batch.column("identified")), whole(batch.column("identified_score"))
    nothing = found.is_("und")
    place = {name: number for number, name in enumerate(found.names)}
    wanted = np.array([place.get(name, -1) for name in langs.names], np.int64)
    agrees = found.index == wanted[langs.index]
    tally.add(langs, "unidentified", where=nothing)
    tally.spread(langs, "confidence", score, CONFIDENCE_EDGES, agrees & ~nothing)
    differs = ~agrees & ~nothing
    tally.spread(langs, "confidence_other", score, CONFIDENCE_EDGES, differs)
    rows = np.flatnonzero(differs)
    both = langs.index[rows] * len(found.names) + found.index[rows]
    for pair, count in zip(*np.unique(both, return_counts=True), strict=True):
        own = other.sums.setdefault(langs.names[int(pair) // len(found.names)], {})
        name = found.names[int(pair) % len(found.names)]
        own[name] = own.get(name, 0) + int(count)


def decided_pairs(task: Task) -> None:
    """Worker: cleaned bitext and the decisions on it."""
    tally = Tally()
    samples = Samples(Bounds(task.settings["samples"], task.settings["samples_per_language"]))
    for batch, decision in decided(task):
        outcome = _Outcome(batch, decision, pair_keys(batch))
        langs, keep = outcome.langs, outcome.keep
        sides = [lengths(batch.column(name)) for name in ("text_a", "text_b")]
        outcome.count(tally, sides[0][1] + sides[1][1])
        for size, characters in sides:
            tally.spread(langs, "lengths", characters, LENGTH_EDGES)
            tally.spread(langs, "lengths_kept", characters, LENGTH_EDGES, keep)
            tally.add(langs, "bytes_kept", size, keep)
            tally.add(langs, "characters_kept", characters, keep)
        outcome.sample(samples, ("text_a", "text_b"), task.settings["sample_characters"])
    put(task, tally, "decided", samples=samples.by_reason)
