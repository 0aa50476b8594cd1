"""Workers of encode and pack run by hand on a few texts: documents or pairs in, shards of tokens, surveys and packings out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.artifacts import bitext, decisions, documents
from pipeline.manifest import Shard
from pipeline.storage import Storage, digest
from pipeline.tables import write_table
from pipeline.task import NONE_APART, Task, UnitResult, find
from pipeline.text.tokenizer import train
from pipeline.units import Unit
from stages.encode import work as encode
from stages.pack import work as pack

Document = tuple[str, str, str, bool, list[int]]
"""Language, split, text, kept, dropped lines."""
Pair = tuple[str, str, str, str, str]
"""Language a, language b, split, text a, text b."""


@cache
def vocabulary() -> bytes:
    """A real, tiny model."""
    words = ["▁one", "▁two", "▁three", "▁four", "▁five", "▁cat", "▁dog", "▁sat", "▁here", ".", "!", "日本", "語", "。"]
    return train({word: 3 + number for number, word in enumerate(words)}, size=310, required_chars="日本語。.!")


def storage(folder: Path) -> Storage:
    return Storage.at(str(folder), "attempt")


def _publish(held: Storage, name: str, schema: pa.Schema, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    path = held.temporary()
    with write_table(path, schema, rows_per_batch=3) as table:
        for row in rows:
            table.row(row)
    published = held.publish(path, name)
    return {"key": "0" * 64, "path": published.path, "sha256": published.sha256, "bytes": published.bytes, "rows": len(rows)}


def _decision(row_id: bytes, keep: bool, split: str, dropped: list[int]) -> dict[str, Any]:
    return {
        "id": row_id,
        "keep": keep,
        "reason": "" if keep else "x",
        "split": split,
        "dropped_lines": dropped,
        "cluster": row_id,
        "cluster_size": 1,
    }


def _run(held: Storage, stage: str, phase: str, work: Any, argument: Any, settings: Any, given: Any) -> tuple[UnitResult, Task]:
    key = digest([stage, phase, argument, settings])
    task = Task(held, stage, phase, key, "unit", argument, settings, given, NONE_APART, None)
    work(task)
    task.publish()
    found = find(held, stage, phase, key)
    assert found is not None
    return found, task


def encoded(held: Storage, name: str, given: Sequence[Document]) -> tuple[UnitResult, Task]:
    """A shard of documents through encode's worker."""
    ids = [bytes([number]) * 16 for number in range(len(given))]
    text = [{"id": i, "lang": lang, "text": text, "source": name, "offset": 0} for i, (lang, _, text, _, _) in zip(ids, given, strict=True)]
    made = [_decision(i, keep, split, dropped) for i, (_, split, _, keep, dropped) in zip(ids, given, strict=True)]
    return _encode(held, name, documents.schema(), text, made, encode.encode_documents)


def encoded_pairs(held: Storage, name: str, given: Sequence[Pair]) -> tuple[UnitResult, Task]:
    """A shard of pairs through encode's worker."""
    ids = [bytes([number]) * 16 for number in range(len(given))]
    text = [
        {"id": i, "lang_a": a, "lang_b": b, "text_a": text_a, "text_b": text_b, "source": name, "offset": 0}
        for i, (a, b, _, text_a, text_b) in zip(ids, given, strict=True)
    ]
    made = [_decision(i, True, split, []) for i, (_, _, split, _, _) in zip(ids, given, strict=True)]
    return _encode(held, name, bitext.schema(), text, made, encode.encode_pairs)


def _encode(held: Storage, name: str, schema: pa.Schema, text: Any, made: Any, work: Any) -> tuple[UnitResult, Task]:
    argument = {
        "text": _publish(held, f"{name}.arrow", schema, text),
        "decisions": _publish(held, f"{name}.made.arrow", decisions.schema(), made),
    }
    path = held.temporary()
    path.write_bytes(vocabulary())
    model = held.publish(path, "vocabulary.model")
    return _run(held, "encode", "documents", work, argument, {}, {"path": model.path, "sha256": model.sha256})


def surveyed(held: Storage, shards: Sequence[Shard], *, pairs: bool = False) -> list[Unit]:
    """The units of pack's index over token shards."""
    surveys = [_run(held, "pack", "survey", pack.survey, {"shard": shard.plain()}, {"pairs": pairs}, {})[0] for shard in shards]
    return pack._units(shards, [(result.files["survey"], result.counts["parts"]) for result in surveys])


def packed(held: Storage, units: Sequence[Unit], *, length: int, method: str, pairs: bool = False) -> list[tuple[UnitResult, Task]]:
    """All languages and splits through pack's index."""
    settings = {"length": length, "method": method, "pairs": pairs}
    return [_run(held, "pack", "index", pack.index, unit.argument, settings, {}) for unit in units]
