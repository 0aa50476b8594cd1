"""The map phase of dedup over pairs: a verdict on each by itself, and the hashes by which they are compared.

cleaned pairs, a batch at a time -> pair rules on columns, held-out, contaminated -> verdicts (row-aligned)
    -> 128-bit hashes of the whole pair, and with `unique_sides` of each side, each within its two languages, sorted
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpus import row_place
from pipeline.manifest import Shard
from pipeline.tables import open_file
from pipeline.task import Task
from stages.dedup.hashes import HASHES, Rows, digests
from stages.dedup.judge import column_of, write_pair_verdicts
from stages.dedup.overlap import Evaluation
from stages.dedup.pair_rules import columns_of, load
from stages.dedup.rows import POISON, Ids
from stages.dedup.rules import Mask

SIDES = {"texts": ("text_a", "text_b"), "side_a": ("text_a",), "side_b": ("text_b",)}
"""File of hashes -> what is hashed besides the two languages."""


def judge_pairs(task: Task) -> None:
    """Worker: a verdict a pair, and the hashes by which pairs are compared."""
    held = Evaluation(task)
    names = tuple(task.settings["pairs"]["rules"])
    kinds = tuple(SIDES) if task.settings["pairs"]["unique_sides"] else ("texts",)
    hashes = {kind: Rows(HASHES) for kind in kinds}
    shard = Shard(**task.argument["shard"])
    reader = open_file(task.storage.local(shard.path, shard.sha256))
    every = reader.read_all().select(["id", "lang_a", "lang_b"])
    labels = pc.binary_join_element_wise(every["lang_a"], every["lang_b"], "-").to_pylist()
    verdict, is_held = np.full(len(labels), POISON, dtype=object), np.zeros(len(labels), np.bool_)
    wanted = dict.fromkeys(("id", "group", "lang_a", "lang_b", "text_a", "text_b", *columns_of(names)))
    base = 0
    for number in range(reader.num_record_batches):
        whole = reader.get_batch(number)
        batch = whole.select(list(wanted))
        taken = np.fromiter(
            task.records(range(batch.num_rows), labels[base : base + batch.num_rows].__getitem__, partial(row_place, whole)), np.int64
        )
        if len(taken):
            part = batch if len(taken) == batch.num_rows else batch.take(pa.array(taken))
            reason = reasons(part, task.settings["pairs"], names)
            mine = held.is_pair(part.column("id"))
            # Of a held-out group, but too short to be measured: neither trained on nor held out.
            reason[held.is_group(part.column("group")) & ~mine & (reason == "")] = "heldout_group"
            contaminated: Mask = held.contaminates(part.column("text_a")) | held.contaminates(part.column("text_b"))
            reason[contaminated & ~mine & (reason == "")] = "contaminated"
            verdict[taken + base], is_held[taken + base] = reason, mine
            for kind in kinds:
                found = _keys(part, SIDES[kind])
                hashes[kind].add(found.high, found.low, taken + base)
            for label, count in Counter(labels[row] for row in (taken + base).tolist()).items():
                task.ledger.keep(label, count)
        base += batch.num_rows
    write_pair_verdicts(task, Ids.of(every["id"]), labels, verdict, is_held)
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
