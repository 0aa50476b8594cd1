"""The work of encode: text ⋈ decisions in, rows of token ids out, one unit a shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts import tokens
from pipeline.artifacts.vocabulary import MODEL_FILE
from pipeline.corpus import decided_batches, kept_texts, pair_up
from pipeline.ledger import total
from pipeline.stage import Context, Input, Output, Summary
from pipeline.task import Task
from pipeline.text.sentences import split_sentences
from pipeline.text.text_encoder import TextEncoder
from pipeline.text.tokenizer import Tokenizer
from pipeline.units import Phase
from stages.encode import Config

I64 = np.ndarray[Any, np.dtype[np.int64]]


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Encode all shards; see the package."""
    model = inputs["vocabulary"].content.files[MODEL_FILE]
    given = {"path": model.path, "sha256": model.sha256}
    ledgers, counts = {}, {}
    for text, decisions, slot, name in (
        ("documents", "decisions", "tokens", "documents"),
        ("bitext", "pair_decisions", "pair_tokens", "pairs"),
    ):
        if text not in inputs or decisions not in inputs:
            continue
        pairings = pair_up(inputs[text].shards, inputs[decisions].shards)
        phase = Phase(name, f"stages.encode.work:encode_{name}", {}, name, (model.sha256,), given)
        results = context.map(phase, [pairing.unit() for pairing in pairings])
        output.add(slot, [result.files["tokens"] for result in results if result.files["tokens"].rows])
        ledgers[name] = total((result.ledger for result in results), name)
        ledgers[name].check(f"encode {name}", sum(pairing.text.rows for pairing in pairings))
        sums: dict[str, int] = {}
        for result in results:
            for lang, count in result.counts["tokens"].items():
                sums[lang] = sums.get(lang, 0) + count
        counts[f"{name}_tokens"] = dict(sorted(sums.items()))
    return Summary(ledgers=ledgers, counts=counts)


@lru_cache(maxsize=1)
def _encoder(root: str, path: str, sha256: str) -> TextEncoder:
    from pipeline.storage import Storage

    return TextEncoder(Tokenizer(Storage.at(root).local(path, sha256).read_bytes()))


class _Encoded:
    """Rows of tokens, column by column, until all of a shard is there."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._schema = tokens.schema(encoder.tokenizer.size)
        self._columns: dict[str, list[pa.Array]] = {name: [] for name in self._schema.names}

    def add(self, plain: Mapping[str, pa.Array], sides: Sequence[Sequence[str]]) -> I64:
        """Encode texts, each a document of one side or a pair of two; gives their numbers of ids. `plain`: the other columns."""
        sentences: list[str] = []
        counts = []
        for text in (text for row in sides for text in row):
            own = split_sentences(text)
            sentences += own
            counts.append(len(own))
        ids, lengths_S = self._encoder.encode(sentences)
        # Totals before each sentence, each side and each row; offsets into ids are differences of these.
        ids_before_S1 = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_S)])
        width = len(sides[0]) if sides else 1
        sentences_before_R1 = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(counts, np.int64).reshape(-1, width).sum(axis=1))])
        begin_R1 = ids_before_S1[sentences_before_R1]
        ends_S = ids_before_S1[1:] - np.repeat(begin_R1[:-1], np.diff(sentences_before_R1))
        last_of_a = sentences_before_R1[:-1] + np.array(counts, np.int64)[::width]
        columns = {
            **plain,
            "ids": pa.LargeListArray.from_arrays(pa.array(begin_R1), pa.array(ids), type=self._schema.field("ids").type),
            "sentences": pa.LargeListArray.from_arrays(
                pa.array(sentences_before_R1), pa.array(ends_S.astype(np.uint32)), type=self._schema.field("sentences").type
            ),
            "side_a": pa.array((ids_before_S1[last_of_a] - begin_R1[:-1]).astype(np.uint32)),
        }
        for name, column in columns.items():
            self._columns[name].append(column)
        return np.diff(begin_R1)

    def write(self, task: Task) -> None:
        """All rows as one batch, so that a mapped column is one run of memory."""
        with task.table("tokens", self._schema) as table:
            if self._columns["id"]:
                table.partition({name: pa.concat_arrays(parts) for name, parts in self._columns.items()})


def _sums(names: Sequence[str], counts: I64) -> dict[str, int]:
    """Counts summed by name, names sorted."""
    found, number = np.unique(np.array(names, dtype=np.str_), return_inverse=True)
    totals = np.zeros(len(found), np.int64)
    np.add.at(totals, number, counts)
    return dict(zip(found.tolist(), totals.tolist(), strict=True))


def _passed(task: Task, names: list[str], keep: Sequence[bool]) -> list[int]:
    """The rows of a batch that are to be encoded; the others are in the ledger."""
    seen = list(task.records(range(len(names)), names.__getitem__))
    passed = [row for row in seen if keep[row]]
    for name, count in Counter(names[row] for row in seen if not keep[row]).items():
        task.ledger.drop(name, "not_kept", count)
    for name, count in Counter(names[row] for row in passed).items():
        task.ledger.keep(name, count)
    return passed


def encode_documents(task: Task) -> None:
    """Worker: the kept documents of a shard, training and held-out ones."""
    encoded = _Encoded(_encoder(task.storage.root, task.given["path"], task.given["sha256"]))
    sums: Counter[str] = Counter()
    for batch, decisions in decided_batches(task.storage, task.argument, ("id", "lang", "text")):
        rows = pa.array(_passed(task, batch.column("lang").to_pylist(), decisions["keep"].to_pylist()), pa.int64())
        if not len(rows):
            continue
        taken, made = batch.take(rows), decisions.take(rows).combine_chunks()
        texts = kept_texts(taken.column("text"), made["dropped_lines"]).to_pylist()
        columns = {
            "id": taken.column("id"),
            "lang": taken.column("lang"),
            "lang_b": pa.nulls(len(rows), pa.string()),
            "split": made["split"].chunk(0),
        }
        sums.update(_sums(taken.column("lang").to_pylist(), encoded.add(columns, [(text,) for text in texts])))
    encoded.write(task)
    task.counts["tokens"] = dict(sorted(sums.items()))


def encode_pairs(task: Task) -> None:
    """Worker: the kept pairs of a shard, side a then side b."""
    encoded = _Encoded(_encoder(task.storage.root, task.given["path"], task.given["sha256"]))
    sums: Counter[str] = Counter()
    for batch, decisions in decided_batches(task.storage, task.argument, ("id", "lang_a", "lang_b", "text_a", "text_b")):
        names = [f"{a}-{b}" for a, b in zip(batch.column("lang_a").to_pylist(), batch.column("lang_b").to_pylist(), strict=True)]
        passed = _passed(task, names, decisions["keep"].to_pylist())
        if not passed:
            continue
        rows = pa.array(passed, pa.int64())
        taken, made = batch.take(rows), decisions.take(rows).combine_chunks()
        columns = {
            "id": taken.column("id"),
            "lang": taken.column("lang_a"),
            "lang_b": taken.column("lang_b"),
            "split": made["split"].chunk(0),
        }
        sides = list(zip(taken.column("text_a").to_pylist(), taken.column("text_b").to_pylist(), strict=True))
        sums.update(_sums([names[row] for row in passed], encoded.add(columns, sides)))
    encoded.write(task)
    task.counts["tokens"] = dict(sorted(sums.items()))
