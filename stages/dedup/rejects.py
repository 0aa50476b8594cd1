"""What was dropped, with its reason and its text, where `keep_rejects` asks for it: cleaned documents ⋈ decisions -> rejects, one shard each."""

from __future__ import annotations

import pyarrow as pa

from pipeline.artifacts import rejects as artifact
from pipeline.corpus import decided
from pipeline.task import Task

_COLUMNS = ("id", "lang", "source", "offset", "url", "text")


def rejects(task: Task) -> None:
    """Worker: the documents of one shard that were dropped."""
    schema: pa.Schema = artifact.schema()
    with task.table("rejects", schema, compression="zstd") as table:
        for row, decision in task.records(decided(task.storage, dict(task.argument), _COLUMNS), lambda item: str(item[0]["lang"])):
            if decision["keep"]:
                task.ledger.drop(row["lang"], "kept")
            else:
                table.row({**row, "reason": decision["reason"]})
                task.ledger.keep(row["lang"])
