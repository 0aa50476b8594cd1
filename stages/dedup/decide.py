"""The last phase of dedup: verdicts ⋈ clusters ⋈ repeated lines -> one row-aligned shard of decisions for each shard of text.

a verdict's reason stands; else the first of: duplicate_url, duplicate, near_duplicate (the row is in such a cluster but not its survivor);
else, where all its lines stand elsewhere, duplicate_lines_of_others; else it is kept, without the lines that stand elsewhere
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts import decisions
from pipeline.manifest import Shard
from pipeline.tables import read_table
from pipeline.task import Task
from stages.dedup.exact import Clusters
from stages.dedup.rows import I64, POISON, Ids

ORDER = ("duplicate_url", "duplicate", "near_duplicate")
"""The kinds of clusters, in the order in which they are resolved."""


def decide(task: Task) -> None:
    """Worker: the decisions on one shard."""
    shard = Shard(**task.argument["verdicts"])
    verdicts = read_table(task.storage.local(shard.path, shard.sha256)).combine_chunks()
    langs = verdicts["lang"].to_pylist()
    ids = Ids.of(verdicts["id"])
    reason = np.array(verdicts["reason"].to_pylist(), dtype=object)
    passed = (reason == "") & (np.array(verdicts["split"].to_pylist(), dtype=object) == "train")
    cluster, size = Ids(ids.high.copy(), ids.low.copy()), np.ones(len(ids), np.int64)
    for kind in ORDER:
        rows, survivors, sizes = Clusters(task, task.given[kind]).find(ids)
        cluster.high[rows], cluster.low[rows], size[rows] = survivors.high, survivors.low, sizes
        lost = (survivors.high != ids.high[rows]) | (survivors.low != ids.low[rows])
        reason[rows[lost & passed[rows] & (reason[rows] == "")]] = kind
    dropped = _repeated_lines(task, ids)
    lines = verdicts["lines"].to_numpy()
    for row, numbers in dropped.items():
        if reason[row] == "" and len(numbers) >= lines[row]:
            reason[row] = "duplicate_lines_of_others"
    kept_lines = [sorted(dropped.get(row, ())) if reason[row] == "" else [] for row in range(len(ids))]
    with task.table("decisions", decisions.schema()) as table:
        if len(ids):
            table.batch(
                {
                    "id": verdicts["id"], "keep": pa.array(reason == "", pa.bool_()), "reason": pa.array(reason, pa.string()), "split": verdicts["split"],
                    "dropped_lines": pa.array(kept_lines, pa.list_(pa.int32())), "cluster": cluster.arrow(), "cluster_size": pa.array(size, pa.int32()),
                }
            )  # fmt: skip
    for (lang, word), count in sorted(Counter(zip(langs, reason.tolist(), strict=True)).items()):
        if word == POISON:
            task.ledger.quarantine(lang, word, count)
        elif word:
            task.ledger.drop(lang, word, count)
        else:
            task.ledger.keep(lang, count)
    task.counts["dropped_lines"] = sum(map(len, kept_lines))


def _repeated_lines(task: Task, ids: Ids) -> dict[int, list[int]]:
    """Row -> numbers of its lines that stand elsewhere."""
    found: dict[int, list[int]] = {}
    order = np.lexsort((ids.low, ids.high))
    mine = ids[order]
    for plain in task.given["lines"]:
        shard = Shard(**plain)
        if not shard.rows:
            continue
        table = read_table(task.storage.local(shard.path, shard.sha256))
        column: dict[str, Any] = {name: table[name].combine_chunks().to_numpy() for name in table.schema.names}
        # The file is sorted by id: only the part between this shard's ids can hold one of them.
        rows = _rows_between(column["high"], mine)
        at = Ids(column["high"][rows], column["low"][rows]).places_in(mine)
        for row, line in zip(order[at[at >= 0]].tolist(), column["line"][rows][at >= 0].tolist(), strict=True):
            found.setdefault(row, []).append(line)
    return found


def _rows_between(high: Any, mine: Ids) -> I64:
    """The rows whose first 64 bits are those of one of the ids."""
    low, top = np.searchsorted(high, mine.high, "left"), np.searchsorted(high, mine.high, "right")
    spans = [np.arange(a, b) for a, b in zip(low.tolist(), top.tolist(), strict=True) if b > a]
    return np.unique(np.concatenate(spans)) if spans else np.zeros(0, np.int64)
