"""Verdicts: what the rules say of each document by itself, before any is compared with another (pairs: `pairs`).

columns of documents, flags of overlap -> rules, held-out, contaminated -> verdicts (row-aligned); no text is read
"""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.manifest import Shard
from pipeline.tables import open_file, rows
from pipeline.task import Task
from pipeline.text.hashing import hash64
from stages.dedup.overlap import Evaluation
from stages.dedup.rows import POISON, Ids, mapped
from stages.dedup.rules import Mask, columns_of, load

VERDICTS = pa.schema(
    [
        *(pa.field(name, pa.uint64(), nullable=False) for name in ("high", "low", "group", "lang_hash")),
        pa.field("passed", pa.uint8(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("lines", pa.int32(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)
"""`high`, `low` are the id's halves; `group` is a hash of the alignment group (0: none); `passed`: for training, and no rule drops it."""


@cache
def rank_of(source: str, priority: tuple[str, ...]) -> int:
    """The rank of a source: that of the first pattern that matches its name; of duplicates the lowest rank stays."""
    return next((rank for rank, pattern in enumerate(priority) if fnmatchcase(source, pattern)), len(priority))


def column_of(batch: pa.RecordBatch, name: str) -> np.ndarray[Any, Any]:
    """A column for the rules: integers as int64, strings as objects."""
    column = batch.column(name)
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)
    return np.array(column.to_pylist(), dtype=object)


def _reasons(
    batch: pa.RecordBatch, task: Task, names: tuple[str, ...], held: Evaluation, contaminated: Mask
) -> tuple[np.ndarray[Any, Any], Mask]:
    """Why each document is dropped ("" if it is not), and whether it is held out."""
    reason = np.full(batch.num_rows, "", dtype=object)
    is_held = held.is_document(batch.column("id"))
    columns = {name: column_of(batch, name) for name in columns_of(names)}
    for name, rule in load(names):
        for word, mask in rule(columns, task.settings.get(name) or {}):
            reason[mask & (reason == "")] = word
    reason[held.is_group(batch.column("group")) & (reason == "")] = "heldout_group"
    reason[contaminated & (reason == "")] = "contaminated"
    reason[is_held] = ""
    reason[np.asarray(batch.column("poison"))] = POISON
    return reason, is_held


def _hash_of(value: str | None, key: str) -> int:
    return 0 if value is None else hash64(value, key)


def judge_documents(task: Task) -> None:
    """Worker: a verdict a document, from the columns of one shard."""
    names, priority = tuple(task.settings["rules"]), tuple(task.settings["priority"])
    held = Evaluation(task)
    columns, sources = Shard(**task.argument["columns"]), Shard(**task.argument["sources"])
    ranks = np.array([rank_of(row["source"], priority) for row in rows(task.storage.local(sources.path, sources.sha256))], np.int64)
    flags = mapped(task, task.argument["flags"])["contaminated"] if task.argument["flags"] is not None else np.zeros(columns.rows, np.uint8)
    reader = open_file(task.storage.local(columns.path, columns.sha256))
    at = 0
    with task.table("verdicts", VERDICTS, one_batch=True) as table:
        made: dict[str, list[Any]] = {name: [] for name in VERDICTS.names}
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            reason, is_held = _reasons(batch, task, names, held, flags[at : at + batch.num_rows] != 0)
            at += batch.num_rows
            ids, langs = Ids.of(batch.column("id")), batch.column("lang").to_pylist()
            hashed = {lang: hash64(lang, "lang") for lang in set(langs)}
            for name, column in (
                ("high", ids.high), ("low", ids.low), ("passed", ((reason == "") & ~is_held).astype(np.uint8)), ("reason", reason),
                ("group", np.array([_hash_of(group, "group") for group in batch.column("group").to_pylist()], np.uint64)),
                ("lang_hash", np.array([hashed[lang] for lang in langs], np.uint64)), ("lang", np.array(langs, dtype=object)),
                ("rank", ranks[np.asarray(batch.column("source_row"))]), ("lines", np.asarray(batch.column("line_count"))),
                ("split", np.where(is_held, "heldout", "train").astype(object)),
            ):  # fmt: skip
                made[name].append(column)
            for lang, count in Counter(langs).items():
                task.ledger.keep(lang, count)
        table.partition({name: np.concatenate(parts) for name, parts in made.items()})


def write_pair_verdicts(task: Task, ids: Ids, langs: list[str], reason: np.ndarray[Any, Any], is_held: Mask) -> None:
    """Write `verdicts`, a row for each row of the shard; the reason of one that was skipped is POISON. Held-out pairs must stand the rules too."""
    rows = len(ids)
    with task.table("verdicts", VERDICTS, one_batch=True) as table:
        table.partition(
            {
                "high": ids.high, "low": ids.low, "group": np.zeros(rows, np.uint64), "lang_hash": np.zeros(rows, np.uint64),
                "passed": ((reason == "") & ~is_held).astype(np.uint8), "rank": np.zeros(rows, np.int32), "lines": np.ones(rows, np.int32),
                "lang": np.array(langs, dtype=object), "reason": reason, "split": np.where(is_held, "heldout", "train").astype(object),
            }
        )  # fmt: skip
