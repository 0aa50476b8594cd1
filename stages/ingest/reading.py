"""A unit of ingest on its worker: files -> documents, bitext, damage.

    file, slice -> reader of its kind -> Record | Pair | Dropped | Damaged -> row of a table, or a reason in the ledger

Each record takes a few microseconds here, so what is the same for many (a language's code, the counts) is looked up once and rows are gathered as tuples.
Tables are cut at `max_shard_bytes` of text, so that a stream that one worker had to read is shared by all in the stages behind.
"""

from __future__ import annotations

import json
from functools import lru_cache, partial
from hashlib import blake2b
from importlib import import_module

import pyarrow as pa

from pipeline.artifacts import bitext, documents
from pipeline.errors import ConfigError
from pipeline.sources import open_source
from pipeline.tables import CutTable
from pipeline.task import Task
from pipeline.text import languages
from stages.ingest.records import Damaged, Dropped, Item, Pair, Pending, Record, Slice, SourceFile
from stages.ingest.sources import SOURCES

PLACES = ("path", "other")
"""Settings of a source that say where it lies: outside its key, since what lies there is in it by content."""
_DAMAGE = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("rest_of_stream", pa.bool_(), nullable=False),
    ]
)


def read_unit(task: Task) -> None:
    """Worker: read the files of a unit into documents, bitext and damage."""
    module = import_module(SOURCES[task.settings["source"]["kind"]])
    config = module.Config.model_validate_json(
        json.dumps({**task.settings["source"], **{name: task.given[name] for name in PLACES if name in task.given}})
    )
    limit = task.settings["max_shard_bytes"]
    damaged_bytes = 0
    with (
        task.cut_table("documents", documents.schema(), limit) as texts,
        task.cut_table("bitext", bitext.schema(), limit) as pairs,
        task.table("damage", _DAMAGE) as damage,
    ):
        rows = _Rows(task, texts, pairs, bool(getattr(config, "as_text", False)))
        for plain in task.argument["files"]:
            partner = None if plain["partner"] is None else SourceFile(**plain["partner"])
            file = SourceFile(plain["url"], plain["name"], plain["size"], plain["lang"], None, partner)
            rows.begin(bytes.fromhex(plain["sha256"]), plain["name"].partition("/")[2])
            part = Slice(**plain["slice"])
            items = module.read(lambda url=file.url: open_source(url), file, part, config)
            for found in task.records(items, _lang_of, partial(_place, rows.name), rows.name):
                item = found.make() if isinstance(found, Pending) else found
                if isinstance(item, Record):
                    rows.document(item)
                elif isinstance(item, Dropped):
                    task.ledger.drop(code_of(item.lang) or "und", item.reason)
                elif isinstance(item, Damaged):
                    damaged_bytes += _lost_bytes(item, file, part)
                    task.ledger.quarantine(file.lang or "und", item.reason)
                    place = {"offset": item.offset, "length": item.length, "reason": item.reason, "rest_of_stream": item.rest_of_stream}
                    damage.row({"source": rows.name, **place})
                else:
                    rows.pair(item)
        rows.count()
    task.counts["damaged_bytes"] = damaged_bytes


def _place(name: str, item: Item | Pending) -> str:
    return f"{name} at {item.offset}"


def _lang_of(item: Item | Pending) -> str:
    return "und" if isinstance(item, Pair | Damaged) else (item.lang or "und")


def _lost_bytes(item: Damaged, file: SourceFile, part: Slice) -> int:
    """Bytes as stored that were lost: exact where they are known, an estimate from below else; at least one, so that it is seen.

    A truncated stream was read to its end, and what is missing cannot be known from the file: it counts a hundredth of the file.
    """
    if item.stored_offset is not None:
        behind = file.size - item.stored_offset
        return max(1, behind if behind > 0 else file.size // 100)
    if item.length is not None and not item.rest_of_stream:
        return max(1, min(item.length, file.size))
    stop = part.stop or file.size
    return max(1, stop - min(stop, max(item.offset, part.start)))


@lru_cache(maxsize=4096)
def code_of(lang: str | None) -> str | None:
    """The canonical code, `und` where none is given, None where it is no language we know."""
    if lang is None:
        return "und"
    try:
        return languages.lookup(lang).code
    except ConfigError:
        return None


class _Rows:
    """Turns records into rows of the tables, or into reasons in the ledger."""

    def __init__(self, task: Task, texts: CutTable, pairs: CutTable, as_text: bool) -> None:
        self._ledger, self._texts, self._pairs, self._as_text = task.ledger, texts, pairs, as_text
        self._wanted = set(task.argument["languages"])
        self._kept: dict[str, int] = {}
        self._identity = blake2b(digest_size=16)
        self.name = ""

    def begin(self, sha256: bytes, name: str) -> None:
        """The records that come are of this file. What their ids share is hashed once; see `pipeline.text.hashing.document_id`."""
        self._identity, self.name = blake2b(sha256, digest_size=16), name

    def _id(self, offset: int, ordinal: int) -> bytes:
        identity = self._identity.copy()
        identity.update((offset << 64 | ordinal).to_bytes(16, "big"))
        return identity.digest()

    def document(self, item: Record) -> None:
        """A row of documents."""
        lang = code_of(item.lang)
        if lang is None:
            self._ledger.drop(item.lang or "und", "unknown_language")
        elif lang not in self._wanted and lang != "und":
            self._ledger.drop(lang, "language_not_wanted")
        elif not item.text or item.text.isspace():
            self._ledger.drop(lang, "empty")
        else:
            self._kept[lang] = self._kept.get(lang, 0) + 1
            offset, ordinal, text, _, group, url, licence = item
            encoded = text.encode()
            self._texts.row((self._id(offset, ordinal), lang, encoded, self.name, offset, url, licence, group), len(encoded))

    def pair(self, item: Pair) -> None:
        """A row of bitext, and with `as_text` two of documents."""
        a, b = code_of(item.lang_a), code_of(item.lang_b)
        label = f"{item.lang_a}-{item.lang_b}"
        if a is None or b is None:
            self._ledger.drop(label, "unknown_language")
            return
        if a not in self._wanted or b not in self._wanted:
            self._ledger.drop(label, "language_not_wanted")
            return
        if a == b:
            self._ledger.drop(label, "same_language")
            return
        if not item.text_a.strip() or not item.text_b.strip():
            self._ledger.drop(label, "empty_side")
            return
        self._kept[label] = self._kept.get(label, 0) + 1
        identifier = self._id(item.offset, item.ordinal)
        values = (identifier, item.group, a, b, item.text_a, item.text_b, self.name, item.offset, item.licence)
        self._pairs.row(values, _bytes(item.text_a) + _bytes(item.text_b))
        if self._as_text:
            # A group ties the sides together, so that held-out text takes both or neither.
            group = item.group or identifier.hex()
            for number, (lang, text) in enumerate(((a, item.text_a), (b, item.text_b))):
                self.document(Record(item.offset, 2 * item.ordinal + number, text, lang, group, None, item.licence))

    def count(self) -> None:
        """Enter what was kept into the ledger."""
        for lang, number in self._kept.items():
            self._ledger.keep(lang, number)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
