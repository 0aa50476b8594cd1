"""The work of encode: text ⋈ decisions in, rows of token ids out, one unit a shard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.artifacts import tokens
from pipeline.artifacts.vocabulary import MODEL_FILE
from pipeline.corpus import decided, kept_text, pair_up
from pipeline.ledger import total
from pipeline.stage import Context, Input, Output, Summary
from pipeline.task import Task
from pipeline.text.sentences import split_sentences
from pipeline.text.tokenizer import Tokenizer
from pipeline.units import Phase
from stages.encode import Config


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
def _tokenizer(root: str, path: str, sha256: str) -> Tokenizer:
    from pipeline.storage import Storage

    return Tokenizer(Storage.at(root).local(path, sha256).read_bytes())


def _encode(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Ids of a text [N] and the ends of its sentences [S], the last being N."""
    encoded = [ids for ids in tokenizer.encode(split_sentences(text)) if len(ids)]
    if not encoded:
        return np.zeros(0, tokenizer.dtype), np.zeros(0, np.uint32)
    return np.concatenate(encoded), np.cumsum([len(ids) for ids in encoded], dtype=np.uint32)


def _row(sides: Iterable[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> dict[str, Any]:
    ids, ends = zip(*sides, strict=True)
    second = [ends[1] + np.uint32(len(ids[0]))] if len(ids) > 1 else []
    return {"ids": np.concatenate(ids), "sentences": np.concatenate([ends[0], *second]), "side_a": len(ids[0])}


def encode_documents(task: Task) -> None:
    """Worker: the kept documents of a shard, training and held-out ones."""
    tokenizer = _tokenizer(task.storage.root, task.given["path"], task.given["sha256"])
    sums: dict[str, int] = {}
    with task.table("tokens", tokens.schema(tokenizer.size), one_batch=True) as table:
        for row, decision in task.records(decided(task.storage, task.argument, ("id", "lang", "text")), lambda pair: str(pair[0]["lang"])):
            if not decision["keep"]:
                task.ledger.drop(row["lang"], "not_kept")
                continue
            values = _row([_encode(tokenizer, kept_text(row["text"], decision["dropped_lines"]))])
            table.row({"id": row["id"], "lang": row["lang"], "split": decision["split"], **values})
            task.ledger.keep(row["lang"])
            sums[row["lang"]] = sums.get(row["lang"], 0) + len(values["ids"])
    task.counts["tokens"] = sums


def encode_pairs(task: Task) -> None:
    """Worker: the kept pairs of a shard, side a then side b."""
    tokenizer = _tokenizer(task.storage.root, task.given["path"], task.given["sha256"])
    sums: dict[str, int] = {}
    with task.table("tokens", tokens.schema(tokenizer.size), one_batch=True) as table:
        for row, decision in task.records(decided(task.storage, task.argument), lambda pair: f"{pair[0]['lang_a']}-{pair[0]['lang_b']}"):
            name = f"{row['lang_a']}-{row['lang_b']}"
            if not decision["keep"]:
                task.ledger.drop(name, "not_kept")
                continue
            values = _row([_encode(tokenizer, row["text_a"]), _encode(tokenizer, row["text_b"])])
            table.row({"id": row["id"], "lang": row["lang_a"], "lang_b": row["lang_b"], "split": decision["split"], **values})
            task.ledger.keep(name)
            sums[name] = sums.get(name, 0) + len(values["ids"])
    task.counts["tokens"] = sums
