"""The work of pack.

    token shards -> survey (map): where the documents, or pairs, of each (language, split) lie in a shard, and the lengths of their sentences, or sides
                 -> index (one unit a language and split): rows of spans, from all its surveys

The survey alone opens token shards, and of these no more than offsets: another length or method reads surveys only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.artifacts import packing
from pipeline.errors import EmptyCorpusError
from pipeline.ledger import total
from pipeline.manifest import Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import digest
from pipeline.tables import open_file, read_table
from pipeline.task import Task
from pipeline.text.best_fit import pack_best_fit
from pipeline.text.concatenate import pack_concatenated
from pipeline.text.packing import Packed, pack_sentences
from pipeline.text.pairs import pack_pairs
from pipeline.units import Phase, Unit
from stages.pack import Config

I64 = np.ndarray[Any, np.dtype[np.int64]]

SURVEY = pa.schema(
    [
        pa.field("lang", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("start", pa.large_list(pa.uint64()), nullable=False),  # first token of each document, in the shard's flat ids
        pa.field("parts", pa.large_list(pa.uint32()), nullable=False),  # sentences of each document; 2 sides of each pair
        pa.field("length", pa.large_list(pa.uint32()), nullable=False),  # tokens of each of these
    ]
)
"""One row a language (or pair of languages, "en-sw") and split, sorted."""
SLOTS = {"tokens": "packing", "pair_tokens": "pair_packing"}


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Index all languages, and all pairs of them; see the package."""
    ledgers: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    for slot, made in SLOTS.items():
        shards = inputs[slot].shards if slot in inputs else ()
        if slot != "tokens" and not shards:
            continue
        units = [Unit(s.sha256, {"shard": s.plain()}, s.bytes // 8, f"{slot} shard {s.key[:12]}") for s in shards]
        seen = context.map(Phase(f"survey-{slot}", "stages.pack.work:survey", {"pairs": slot == "pair_tokens"}, "tokens"), units)
        work = _units(shards, [(result.files["survey"], result.counts["parts"]) for result in seen])
        if slot == "tokens" and not any(unit.argument["split"] == "train" for unit in work):
            raise EmptyCorpusError(
                f"{context.instance}: there is nothing to train on; all that is kept is held out. Lower stages.heldout.share."
            )
        settings = {"length": config.length, "method": config.method, "pairs": slot == "pair_tokens"}
        results = context.map(Phase(f"index-{slot}", "stages.pack.work:index", settings, "tokens"), work)
        output.add(made, [result.files["packing"] for result in results])
        ledgers[slot] = total((result.ledger for result in results), "tokens")
        ledgers[slot].check(f"pack {slot}", sum(result.ledger.taken for result in seen))
        rows = sum(result.files["packing"].rows for result in results)
        by_lang = {
            f"{unit.argument['lang']}/{unit.argument['split']}": dict(result.counts) for unit, result in zip(work, results, strict=True)
        }
        if slot == "tokens":
            counts |= {"length": config.length, "rows": rows, "parts": by_lang}
        else:
            counts |= {"pair_rows": rows, "pair_parts": by_lang}
        filled = sum(result.counts["filled"] for result in results)
        metrics["pack/fill" if slot == "tokens" else "pack/pair_fill"] = filled / max(1, rows * config.length)
    return Summary(ledgers=ledgers, counts=counts, metrics=metrics)


def _units(shards: Sequence[Shard], seen: Sequence[tuple[Shard, Sequence[Sequence[Any]]]]) -> list[Unit]:
    """A unit for each language and split: the surveys that hold some of it, and in which row."""
    held: dict[tuple[str, str], list[tuple[Shard, Shard, int, int]]] = {}
    for shard, (survey, parts) in zip(shards, seen, strict=True):
        for row, (lang, split, tokens) in enumerate(parts):
            held.setdefault((lang, split), []).append((shard, survey, row, tokens))
    units = []
    for (lang, split), found in sorted(held.items()):
        names = [shard.sha256 for shard, *_ in found]
        surveys = [[survey.plain(), row] for _, survey, row, _ in found]
        argument = {"lang": lang, "split": split, "token_shards": names, "surveys": surveys}
        units.append(Unit(digest([lang, split, names]), argument, sum(tokens for *_, tokens in found) // 8, f"{lang} {split}"))
    return units


def survey(task: Task) -> None:
    """Worker: the offsets of a shard's documents or pairs, by language and split."""
    shard = Shard(**task.argument["shard"])
    batch = _one_batch(task, shard)
    at = batch.column("ids").offsets.to_numpy()
    if task.settings["pairs"]:
        names = [f"{a}-{b}" for a, b in zip(batch.column("lang").to_pylist(), batch.column("lang_b").to_pylist(), strict=True)]
        side_a = batch.column("side_a").to_numpy().astype(np.int64)
        lengths = np.stack([side_a, np.diff(at) - side_a], axis=1).reshape(-1)
        bounds = np.arange(batch.num_rows + 1, dtype=np.int64) * 2
    else:
        names = batch.column("lang").to_pylist()
        bounds = batch.column("sentences").offsets.to_numpy()
        ends = batch.column("sentences").values.to_numpy().astype(np.int64)
        lengths = np.diff(ends, prepend=0)
        first = bounds[:-1][np.diff(bounds) > 0]
        lengths[first] = ends[first]
    keys, group = _groups(names, batch.column("split").to_pylist())
    order = np.argsort(group, kind="stable")
    edges = np.searchsorted(group[order], np.arange(len(keys) + 1))
    parts = []
    with task.table("survey", SURVEY, one_batch=True) as table:
        for number, (lang, split) in enumerate(task.records(keys, lambda key: key[0])):
            rows = order[edges[number] : edges[number + 1]]
            counts = bounds[rows + 1] - bounds[rows]
            chosen = np.repeat(bounds[rows] - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))
            tokens = int(lengths[chosen].sum())
            found = {"start": at[rows].astype(np.uint64), "parts": counts.astype(np.uint32), "length": lengths[chosen].astype(np.uint32)}
            table.row({"lang": lang, "split": split, **found})
            task.ledger.keep(lang, tokens)
            parts.append((lang, split, tokens))
    task.counts["parts"] = parts


def _one_batch(task: Task, shard: Shard) -> Any:
    """A token shard. Encode writes one batch a shard, so its ids are one run and offsets into it hold."""
    reader = open_file(task.storage.local(shard.path, shard.sha256))
    return reader.get_batch(0) if reader.num_record_batches else pa.record_batch([[]] * len(reader.schema), schema=reader.schema)


def _groups(names: list[str], splits: list[str]) -> tuple[list[tuple[str, str]], I64]:
    """The (name, split) there are, sorted, and the number [N] of each row's."""
    keys = sorted(set(zip(names, splits, strict=True)))
    number = {key: n for n, key in enumerate(keys)}
    return keys, np.fromiter((number[key] for key in zip(names, splits, strict=True)), np.int64, len(names))


class _Held(NamedTuple):
    """All documents of a language and split: [D] shard, first token and number of parts; [N] tokens of each part."""

    shard_D: I64
    start_D: I64
    parts_D: I64
    length_N: I64


def index(task: Task) -> None:
    """Worker: the rows of one language, or pair of languages, and split."""
    lang, split, length = task.argument["lang"], task.argument["split"], task.settings["length"]
    held = _held(task)
    packed, dropped = _pack(task.settings, held, length)
    task.ledger.keep(lang, int(packed.span_length.sum()))
    for reason, tokens in dropped.items():
        if tokens:
            task.ledger.drop(lang, reason, tokens)
    spans = pa.StructArray.from_arrays(
        [
            pa.array(held.shard_D[packed.span_document].astype(np.uint32)),
            pa.array((held.start_D[packed.span_document] + packed.span_start).astype(np.uint64)),
            pa.array(packed.span_length.astype(np.uint32)),
        ],
        fields=list(packing.schema().field("spans").type.value_type),
    )
    rows = pa.ListArray.from_arrays(pa.array(packed.row_offsets, pa.int32()), spans, type=packing.schema().field("spans").type)
    metadata = {
        "lang": lang, "split": split, "length": length, "token_shards": task.argument["token_shards"],
        "spans_a_text": 2 if task.settings["pairs"] else 1,
    }  # fmt: skip
    schema = packing.schema().with_metadata({"packing": json.dumps(metadata, sort_keys=True)})
    with task.table("packing", schema) as table:
        table.partition({"spans": rows})  # one batch, so that a reader maps it as it lies
    task.counts.update(
        {"filled": int(packed.num_tokens), "tokens": int(packed.span_length.sum()), "documents": len(held.start_D), "rows": packed.num_rows,
         "cut_documents": 0 if task.settings["pairs"] else packed.num_cut_documents}
    )  # fmt: skip


def _held(task: Task) -> _Held:
    columns: dict[str, list[I64]] = {"shard": [], "start": [], "parts": [], "length": []}
    for number, (plain, row) in enumerate(task.argument["surveys"]):
        shard = Shard(**plain)
        table = read_table(task.storage.local(shard.path, shard.sha256))
        for name in ("start", "parts", "length"):
            columns[name].append(table[name].chunk(0)[row].values.to_numpy().astype(np.int64))
        columns["shard"].append(np.full(len(columns["start"][-1]), number, np.int64))
    return _Held(*(np.concatenate(column) if column else np.zeros(0, np.int64) for column in columns.values()))


def _pack(settings: Mapping[str, Any], held: _Held, length: int) -> tuple[Packed, dict[str, int]]:
    """The rows, and the tokens that are in none, by reason."""
    if settings["pairs"]:
        return pack_pairs(held.length_N.reshape(-1, 2), max_tokens=length, best_fit=settings["method"] == "best-fit")
    if settings["method"] == "sentences":
        return pack_sentences(held.length_N, np.repeat(np.arange(len(held.parts_D)), held.parts_D), max_tokens=length), {}
    before_N = np.concatenate([np.zeros(1, np.int64), np.cumsum(held.length_N)])
    ends_D = np.cumsum(held.parts_D)
    whole_D = before_N[ends_D] - before_N[ends_D - held.parts_D]
    pack = pack_best_fit if settings["method"] == "best-fit" else pack_concatenated
    return pack(whole_D, max_tokens=length), {}
