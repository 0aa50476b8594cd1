"""The last phase of dedup: verdicts ⋈ clusters ⋈ repeated lines -> one row-aligned shard of decisions for each shard of text.

a verdict's reason stands; else the first of: duplicate_url, duplicate, near_duplicate, and of pairs duplicate_side_a, duplicate_side_b (the row is in such a cluster but not its survivor);
else, where all its lines stand elsewhere, duplicate_lines_of_others; else it is kept, without the lines that stand elsewhere
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from pipeline.artifacts import decisions
from pipeline.manifest import Shard
from pipeline.tables import read_table
from pipeline.task import Task
from stages.dedup.exact import Clusters
from stages.dedup.rows import POISON, Documents, Ids, mapped, read_range

ORDER = ("duplicate_url", "duplicate", "near_duplicate", "duplicate_side_a", "duplicate_side_b")
"""The kinds of clusters, in the order in which they are resolved."""


def decide(task: Task) -> None:
    """Worker: the decisions on one shard."""
    shard, base = Shard(**task.argument["verdicts"]), task.argument["base"]
    verdicts = read_table(task.storage.local(shard.path, shard.sha256)).combine_chunks()
    documents = Documents(task, task.given["verdicts"])
    langs = verdicts["lang"].to_pylist()
    ids = Ids(verdicts["high"].to_numpy(), verdicts["low"].to_numpy())
    reason = np.array(verdicts["reason"].to_pylist(), dtype=object)
    passed = verdicts["passed"].to_numpy() != 0
    cluster, size = Ids(ids.high.copy(), ids.low.copy()), np.ones(len(ids), np.int64)
    for kind in ORDER:
        found = Clusters(task, task.given.get(kind, ())).of_range(base, base + len(ids))
        rows = found["member"] - base
        survivors = documents.ids(found["survivor"])
        cluster.high[rows], cluster.low[rows], size[rows] = survivors.high, survivors.low, found["size"]
        lost = rows[found["survivor"] != found["member"]]
        reason[lost[passed[lost] & (reason[lost] == "")]] = kind
    dropped = _repeated_lines(task, base, len(ids))
    lines = verdicts["lines"].to_numpy()
    for row, numbers in dropped.items():
        if reason[row] == "" and len(numbers) >= lines[row]:
            reason[row] = "duplicate_lines_of_others"
    kept_lines = [sorted(dropped.get(row, ())) if reason[row] == "" else [] for row in range(len(ids))]
    with task.table("decisions", decisions.schema()) as table:
        if len(ids):
            table.batch(
                {
                    "id": ids.arrow(), "keep": pa.array(reason == "", pa.bool_()), "reason": pa.array(reason, pa.string()), "split": verdicts["split"],
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


def _repeated_lines(task: Task, base: int, rows: int) -> dict[int, set[int]]:
    """Row -> numbers of its lines that stand elsewhere."""
    found: dict[int, set[int]] = {}
    for plain in (*task.given.get("paragraphs", ()), *task.given.get("lines", ())):
        mine = read_range(mapped(task, plain), "number", base, base + rows)
        if mine:
            for number, line, span in zip(mine["number"].tolist(), mine["line"].tolist(), mine["span"].tolist(), strict=True):
                found.setdefault(number - base, set()).update(range(line, line + span))
    return found
