"""The map phase of dedup over pairs: a verdict on each by itself, and the hashes by which those that pass are compared.

cleaned pairs, a batch at a time -> pair rules on columns, held-out, contaminated -> verdicts (row-aligned)
    of those that pass: 128-bit hashes of the whole pair, and with `unique_sides` of each side, each within its two languages, cut into P partitions
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.manifest import Shard
from pipeline.tables import open_file
from pipeline.task import Task
from stages.dedup.judge import VERDICTS, WHOLE, Evaluation, Hashes, column_of, digests
from stages.dedup.pair_rules import columns_of, load
from stages.dedup.rows import Ids
from stages.dedup.rules import Mask

SIDES = {"hashes": ("text_a", "text_b"), "side_a": ("text_a",), "side_b": ("text_b",)}
"""File of hashes -> what is hashed besides the two languages."""


def judge_pairs(task: Task) -> None:
    """Worker: a verdict a pair, and the hashes of those that pass."""
    held = Evaluation(task)
    names = tuple(task.settings["pairs"]["rules"])
    kinds = tuple(SIDES) if task.settings["pairs"]["unique_sides"] else ("hashes",)
    hashes = {kind: Hashes() for kind in kinds}
    shard = Shard(**task.argument["shard"])
    reader = open_file(task.storage.local(shard.path, shard.sha256))
    wanted = dict.fromkeys(("id", "group", "lang_a", "lang_b", "text_a", "text_b", *columns_of(names)))
    with task.table("verdicts", VERDICTS) as table:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number).select(list(wanted))
            labels = pc.binary_join_element_wise(batch.column("lang_a"), batch.column("lang_b"), "-").to_pylist()
            taken = list(task.records(range(batch.num_rows), labels.__getitem__))
            if len(taken) < batch.num_rows:
                batch, labels = batch.take(pa.array(taken, pa.int64())), [labels[row] for row in taken]
            if not taken:
                continue
            reason = reasons(batch, task.settings["pairs"], names)
            reason[held.is_group(batch.column("group")) & (reason == "")] = "heldout_group"
            contaminated: Mask = held.contaminates(batch.column("text_a")) | held.contaminates(batch.column("text_b"))
            reason[contaminated & (reason == "")] = "contaminated"
            some = np.flatnonzero(reason == "")
            nothing = np.zeros(len(some), np.int64)
            passed = batch.take(pa.array(some, pa.int64()))
            for kind in kinds:
                hashes[kind].add(_keys(passed, SIDES[kind]), Ids.of(passed.column("id")), nothing, nothing + WHOLE)
            table.batch(
                {"id": batch.column("id"), "lang": pa.array(labels, pa.string()), "reason": pa.array(reason, pa.string()),
                 "split": pa.array(["train"] * len(taken), pa.string()), "lines": pa.array(np.ones(len(taken), np.int32))}
            )  # fmt: skip
            for label, count in Counter(labels).items():
                task.ledger.keep(label, count)
    for kind in kinds:
        hashes[kind].write(task, kind)


def reasons(batch: pa.RecordBatch, settings: dict[str, Any], names: tuple[str, ...]) -> np.ndarray[Any, Any]:
    """Why each pair of a batch is dropped by the rules; "" where it is not."""
    reason = np.full(batch.num_rows, "", dtype=object)
    columns = {name: column_of(batch, name) for name in columns_of(names)}
    for name, rule in load(names):
        for word, mask in rule(columns, settings.get(name) or {}):
            reason[mask & (reason == "")] = word
    return reason


def _keys(batch: pa.RecordBatch, texts: tuple[str, ...]) -> Ids:
    """Hashes that are equal for equal texts in the same two languages; a cleaned text holds no NUL."""
    parts = [batch.column(name).cast(pa.large_string()) for name in ("lang_a", "lang_b", *texts)]
    return digests(pc.binary_join_element_wise(*parts, pa.scalar("\0", pa.large_string())), "pair")
