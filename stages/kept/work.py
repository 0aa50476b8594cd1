"""The work of kept: a shard of documents and its decisions in, a file of JSON lines out, one unit a shard."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa

from pipeline.corpus import kept_text, pair_up
from pipeline.errors import IntegrityError
from pipeline.ledger import total
from pipeline.manifest import Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import Published
from pipeline.tables import open_file, utf8
from pipeline.task import Task
from pipeline.text.spelled import json_spelling
from pipeline.units import Phase
from stages.kept import Config

COLUMNS = ("text", "id", "lang", "source", "offset", "url", "licence", "group")
LEVEL = 3


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Write all shards; see the package."""
    pairings = pair_up(inputs["documents"].shards, inputs["decisions"].shards)
    phase = Phase("write", "stages.kept.work:write", {"compression": config.compression}, "documents")
    results = context.map(phase, [pairing.unit() for pairing in pairings])
    suffix = "jsonl" if config.compression == "none" else "jsonl.zst"
    for number, result in enumerate(results):
        shard = result.files["kept"]
        output.refer("kept", f"part-{number:05d}.{suffix}", Published(shard.path, shard.sha256, shard.bytes))
    ledger = total((result.ledger for result in results), "documents")
    ledger.check("kept", sum(pairing.text.rows for pairing in pairings))
    return Summary(ledgers={"documents": ledger})


def write(task: Task) -> None:
    """Worker: the kept documents of one shard."""
    text, decisions = Shard(**task.argument["text"]), Shard(**task.argument["decisions"])
    given = open_file(task.storage.local(text.path, text.sha256))
    made = open_file(task.storage.local(decisions.path, decisions.sha256)).read_all()
    compression = task.settings["compression"]
    with task.file("kept") as path, _open(path, compression) as sink:
        first = 0
        for number in range(given.num_record_batches):
            batch = given.get_batch(number).select(list(COLUMNS))
            decided = made.slice(first, batch.num_rows).combine_chunks()
            first += batch.num_rows
            if not decided["id"].combine_chunks().equals(batch.column("id")):
                raise IntegrityError(f"{decisions.path}: its rows are not those of {text.path}", path=decisions.path)
            taken = pa.array(list(task.records(range(batch.num_rows), batch.column("lang").to_pylist().__getitem__)), pa.int64())
            batch, decided = batch.take(taken), decided.take(taken)
            chosen = decided["keep"].combine_chunks()
            for part, keep in ((batch.filter(chosen), True), (batch.filter(pa.compute.invert(chosen)), False)):
                for lang, count in Counter(part.column("lang").to_pylist()).items():
                    task.ledger.keep(lang, count) if keep else task.ledger.drop(lang, "not_kept", count)
            sink.write(_lines(batch.filter(chosen), decided["dropped_lines"].combine_chunks().filter(chosen)))


def _lines(batch: pa.RecordBatch, dropped_lines: pa.ListArray) -> bytes:
    """Documents as lines of JSON; their texts, without the dropped lines, are spelled in one compiled pass."""
    texts = batch.column("text").cast(pa.large_string())
    some = np.flatnonzero(dropped_lines.value_lengths().to_numpy())
    if len(some):
        mask = np.zeros(len(texts), np.bool_)
        mask[some] = True
        less = [kept_text(texts[row].as_py(), dropped_lines[row].as_py()) for row in some.tolist()]
        texts = pa.compute.replace_with_mask(texts, pa.array(mask), pa.array(less, texts.type))
    spelled, offsets = json_spelling(*utf8(texts))
    data, edges = memoryview(spelled.data), offsets.tolist()
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
    parts: list[bytes | memoryview] = []
    for number, row in enumerate(batch.select(list(COLUMNS[1:])).to_pylist()):
        row["id"] = row["id"].hex()
        rest = encode({name: value for name, value in row.items() if value is not None})
        parts += [b'{"text":"', data[edges[number] : edges[number + 1]], b'",', rest[1:].encode(), b"\n"]
    return b"".join(parts)


@contextlib.contextmanager
def _open(path: Path, compression: str) -> Iterator[BinaryIO]:
    with path.open("wb") as raw:
        if compression == "none":
            yield raw
            return
        import zstandard

        with zstandard.ZstdCompressor(level=LEVEL).stream_writer(raw, closefd=False) as stream:
            yield cast(BinaryIO, stream)
