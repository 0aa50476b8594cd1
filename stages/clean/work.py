"""The work of clean: a shard of documents (or pairs) in, the same rows cleaned and measured out, one unit a shard.

block lists -> one unit (`blocklist`)
identification model -> one unit (`identification`)
a batch of rows -> text rules (`rewrite`) -> measures, block lists, identification -> the same rows with their new columns
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts import bitext, documents
from pipeline.corpus import row_place
from pipeline.ledger import Ledger, total
from pipeline.manifest import Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.tables import open_file, utf8
from pipeline.task import Task
from pipeline.text.measures import Measurer
from pipeline.text.numerals import numerals
from pipeline.units import Phase, Unit
from stages.clean import Config, blocklist, identification
from stages.clean.blocklist import Blocklist
from stages.clean.identification import Identification
from stages.clean.rewrite import Clock, Rewriter, add_counts, untimed


def settings_of(config: Config) -> dict[str, dict[str, Any]]:
    """What shapes the output of each slot, as workers get it."""
    return {
        "documents": {
            "rules": list(config.rules),
            "stop_words": {k: list(v) for k, v in config.stop_words.items()},
            **identification.settings_of(config),
        },
        "bitext": {"rules": list(config.rules), **identification.settings_of(config, lines=False)},
    }


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Clean all shards; see the package."""
    settings = settings_of(config)
    model = identification.stored(context)
    lists = blocklist.stored(context)
    given = {"documents": model | lists, "bitext": model}
    ledgers: dict[str, Ledger] = {}
    counts: dict[str, dict[str, int]] = {}
    for slot, function in (("documents", "clean_documents"), ("bitext", "clean_pairs")):
        if slot not in inputs:
            continue
        shards = [shard for shard in inputs[slot].shards if shard.rows]
        side = tuple(shard.sha256 for _, shard in sorted(given[slot].items()))
        files = {name: shard.plain() for name, shard in given[slot].items()}
        phase = Phase(slot, f"stages.clean.work:{function}", settings[slot], slot, side, files)
        units = [Unit(shard.sha256, {"shard": shard.plain()}, shard.bytes, f"{slot} shard {shard.key[:12]}") for shard in shards]
        results = context.map(phase, units)
        output.add(slot, [result.files[slot] for result in results])
        ledgers[slot] = total((result.ledger for result in results), slot)
        ledgers[slot].check(f"clean {slot}", sum(shard.rows for shard in shards))
        for result in results:
            add_counts(counts, slot, result.counts)
    return Summary(ledgers=ledgers, counts={kind: dict(sorted(by_name.items())) for kind, by_name in counts.items()})


class Cleaner:
    """The settings of a task at work: batches of ingested documents in, columns of cleaned ones out."""

    def __init__(self, settings: Mapping[str, Any], lists: Blocklist, identified: Identification, clock: Clock = untimed) -> None:
        self.rewriter = Rewriter(settings["rules"], clock)
        self._measurer = Measurer(settings["stop_words"])
        self._lists, self._identified, self._clock = lists, identified, clock

    def columns(self, batch: pa.RecordBatch, langs: Sequence[str]) -> dict[str, Any]:
        """All columns of `documents.cleaned_schema`, for a batch with at least one row."""
        raw = batch.column("text")
        texts = self.rewriter.rewrite(raw, langs)
        columns: dict[str, Any] = {name: batch.column(name) for name in batch.schema.names}
        columns |= {"text": texts.cast(pa.string()), "raw_characters": pc.utf8_length(raw)}
        with self._clock("measures"):
            columns |= {name: pa.array(values, pa.int32()) for name, values in self._measurer.measure(*utf8(texts), langs).items()}
        with self._clock("block lists"):
            columns |= self._lists.measure(batch.column("url"), texts, langs)
        with self._clock("identification"):
            columns |= self._identified.columns(texts.to_pylist(), langs)
        return columns


def clean_documents(task: Task) -> None:
    """Worker: clean and measure one shard of documents."""
    cleaner = Cleaner(task.settings, Blocklist.read(task.storage, task.given), Identification.of(task))
    shard = Shard(**task.argument["shard"])
    reader = open_file(task.storage.local(shard.path, shard.sha256))
    with task.table("documents", documents.cleaned_schema()) as table:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            langs = batch.column("lang").to_pylist()
            taken = list(task.records(range(batch.num_rows), langs.__getitem__, partial(row_place, batch)))
            if len(taken) < batch.num_rows:
                batch, langs = batch.take(pa.array(taken, pa.int64())), [langs[row] for row in taken]
            if not taken:
                continue
            table.batch(cleaner.columns(batch, langs))
            for lang, count in Counter(langs).items():
                task.ledger.keep(lang, count)
    task.counts.update(cleaner.rewriter.counts())


def clean_pairs(task: Task) -> None:
    """Worker: clean and measure one shard of pairs, both sides alike."""
    rewriter = Rewriter(task.settings["rules"])
    measurer = Measurer()
    identified = Identification.of(task)
    shard = Shard(**task.argument["shard"])
    reader = open_file(task.storage.local(shard.path, shard.sha256))
    with task.table("bitext", bitext.cleaned_schema()) as table:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            names = [f"{a}-{b}" for a, b in zip(*(batch.column(f"lang_{side}").to_pylist() for side in "ab"), strict=True)]
            taken = list(task.records(range(batch.num_rows), names.__getitem__, partial(row_place, batch)))
            batch = batch.take(pa.array(taken, pa.int64()))
            if not taken:
                continue
            columns: dict[str, Any] = {name: batch.column(name) for name in batch.schema.names}
            for side in bitext.SIDES:
                columns |= _side(batch, side, rewriter, measurer, identified)
            columns["identical"] = pc.equal(columns["text_a"], columns["text_b"]).cast(pa.int32())
            table.batch(columns)
            for name, count in Counter(names[row] for row in taken).items():
                task.ledger.keep(name, count)
    task.counts.update(rewriter.counts())


def _side(batch: pa.RecordBatch, side: str, rewriter: Rewriter, measurer: Measurer, identified: Identification) -> dict[str, Any]:
    """The columns of one side of a batch of pairs: its text, cleaned, and what is measured of it."""
    langs = batch.column(f"lang_{side}").to_pylist()
    texts = rewriter.rewrite(batch.column(f"text_{side}"), langs).cast(pa.large_string())
    data, offsets = utf8(texts)
    measured = measurer.measure(data, offsets, langs)
    columns: dict[str, Any] = {f"text_{side}": texts.cast(pa.string()), f"numerals_{side}": pa.array(numerals(data, offsets), pa.int64())}
    columns |= {f"{name}_{side}": pa.array(measured[name], pa.int32()) for name in bitext.PAIR_MEASURES}
    found, scores = identified.identify_all(texts.to_pylist())
    columns[f"identified_{side}"] = pa.array(found, pa.string())
    columns[f"identified_score_{side}"] = pa.array(scores, pa.int32())
    return columns
