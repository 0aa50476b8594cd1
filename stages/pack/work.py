"""The work of pack.

    token shards -> offsets (map): per shard, the sentence lengths of each (language, split) -> pack (one unit a language and split): rows of spans

The tokens themselves are not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts import packing
from pipeline.errors import EmptyCorpusError
from pipeline.ledger import total
from pipeline.manifest import Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import digest
from pipeline.tables import read_table
from pipeline.task import Task
from pipeline.text.best_fit import pack_best_fit
from pipeline.text.concatenate import pack_concatenated
from pipeline.text.packing import Packed, pack_sentences
from pipeline.units import Phase, Unit
from stages.pack import Config


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Index all languages; see the package."""
    shards = inputs["tokens"].shards
    units = [Unit(s.sha256, {"shard": s.plain()}, s.bytes // 8, f"tokens shard {s.key[:12]}") for s in shards]
    seen = context.map(Phase("survey", "stages.pack.work:survey", {}, "tokens"), units)
    by_part: dict[tuple[str, str], list[int]] = {}
    for number, result in enumerate(seen):
        for lang, split in result.counts["parts"]:
            by_part.setdefault((lang, split), []).append(number)
    if not any(split == "train" for _, split in by_part):
        raise EmptyCorpusError(
            f"{context.instance}: there is nothing to train on; all that is kept is held out. Lower stages.heldout.share."
        )
    work = []
    for (lang, split), numbers in sorted(by_part.items()):
        chosen = [shards[n] for n in numbers]
        argument = {"lang": lang, "split": split, "shards": [s.plain() for s in chosen]}
        work.append(Unit(digest([lang, split, [s.sha256 for s in chosen]]), argument, sum(s.bytes for s in chosen) // 8, f"{lang} {split}"))
    results = context.map(Phase("index", "stages.pack.work:index", {"length": config.length, "method": config.method}, "tokens"), work)
    output.add("packing", [result.files["packing"] for result in results])
    ledger = total((result.ledger for result in results), "tokens")
    ledger.check("pack", sum(result.ledger.taken for result in seen))
    rows = sum(result.files["packing"].rows for result in results)
    filled = sum(result.counts["filled"] for result in results)
    by_lang = {f"{unit.argument['lang']}/{unit.argument['split']}": dict(result.counts) for unit, result in zip(work, results, strict=True)}
    fill = filled / max(1, rows * config.length)
    return Summary(
        ledgers={"tokens": ledger}, counts={"length": config.length, "rows": rows, "parts": by_lang}, metrics={"pack/fill": fill}
    )


def survey(task: Task) -> None:
    """Worker: which (language, split) a shard of tokens holds, and how many tokens."""
    shard = Shard(**task.argument["shard"])
    table = read_table(task.storage.local(shard.path, shard.sha256), ("lang", "split", "side_a"))
    parts = set()
    for row in task.records(table.to_pylist(), lambda row: str(row["lang"])):
        task.ledger.keep(row["lang"], row["side_a"])
        parts.add((row["lang"], row["split"]))
    task.counts["parts"] = sorted(parts)


def index(task: Task) -> None:
    """Worker: the rows of one language and split, over all shards that hold some of it."""
    lang, split, length = task.argument["lang"], task.argument["split"], task.settings["length"]
    lengths: list[np.ndarray[Any, Any]] = []
    documents: list[np.ndarray[Any, Any]] = []
    shard_of: list[int] = []
    start_of: list[int] = []
    shards = [Shard(**plain) for plain in task.argument["shards"]]
    for number, shard in enumerate(shards):
        table = read_table(task.storage.local(shard.path, shard.sha256), ("lang", "split", "ids", "sentences")).combine_chunks()
        if not table.num_rows:
            continue
        mine = np.array([a == lang and b == split for a, b in zip(table["lang"].to_pylist(), table["split"].to_pylist(), strict=True)])
        # Encode writes one batch a shard, so the shard's ids are one run and offsets into it hold.
        at = table["ids"].combine_chunks().offsets.to_numpy()
        ends = table["sentences"].combine_chunks()
        bounds = ends.offsets.to_numpy()
        values = ends.values.to_numpy()
        for row in np.flatnonzero(mine):
            own = np.diff(values[bounds[row] : bounds[row + 1]].astype(np.int64), prepend=0)
            lengths.append(own)
            documents.append(np.full(len(own), len(shard_of), np.int64))
            shard_of.append(number)
            start_of.append(int(at[row]))
    if not shard_of:
        lengths, documents = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    packed = _pack(task.settings["method"], np.concatenate(lengths), np.concatenate(documents), len(shard_of), length)
    task.ledger.keep(lang, int(packed.span_length.sum()))
    spans = pa.StructArray.from_arrays(
        [
            pa.array(np.array(shard_of, np.uint32)[packed.span_document] if len(packed.span_document) else [], pa.uint32()),
            pa.array(
                np.array(start_of, np.uint64)[packed.span_document] + packed.span_start.astype(np.uint64)
                if len(packed.span_document)
                else [],
                pa.uint64(),
            ),
            pa.array(packed.span_length, pa.uint32()),
        ],
        fields=list(packing.schema().field("spans").type.value_type),
    )
    rows = pa.ListArray.from_arrays(pa.array(packed.row_offsets, pa.int32()), spans, type=packing.schema().field("spans").type)
    metadata = {"lang": lang, "split": split, "length": length, "token_shards": [shard.sha256 for shard in shards]}
    schema = packing.schema().with_metadata({"packing": json.dumps(metadata, sort_keys=True)})
    with task.table("packing", schema) as table:
        table.batch(pa.table([rows], schema=schema))
    task.counts.update(
        {"filled": int(packed.num_tokens), "tokens": int(packed.span_length.sum()), "documents": len(shard_of), "rows": packed.num_rows,
         "cut_documents": packed.num_cut_documents}
    )  # fmt: skip


def _pack(method: str, lengths: np.ndarray[Any, Any], documents: np.ndarray[Any, Any], num_documents: int, length: int) -> Packed:
    """Rows from the sentences' lengths [N] and the number of the document [N] that each belongs to."""
    if method == "sentences":
        return pack_sentences(lengths, documents, max_tokens=length)
    whole = np.zeros(num_documents, np.int64)
    np.add.at(whole, documents, lengths)
    return pack_best_fit(whole, max_tokens=length) if method == "best-fit" else pack_concatenated(whole, max_tokens=length)
