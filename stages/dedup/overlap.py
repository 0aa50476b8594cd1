"""Decontamination: which training text overlaps evaluation text, by n-grams of words, in any language.

    heldout, examples -> n-grams of each dev and test text -> those of few texts -> one sorted file of hashes, and one by set     (contaminants, one unit)
    documents         -> which hold one of them, and of which set                                                                 (overlap, map)

An n-gram is 13 words (GPT-3, Brown et al. 2020, appendix C), or about as much text in scripts without spaces: 26 characters of Han or Kana, 52 letters (marks not
counted) of Thai, Khmer, Lao, Burmese or Tibetan. In NTREX-128, 13 English words are 21 units of Chinese, 31 of Japanese, 40 of Burmese, 43 of Tibetan, 49 of Lao, 50 of
Thai, and 12 words of the median spaced language. Of the articles of the Universal Declaration in 100 languages, against three others, n = 5 condemns 5.9% in spaced and 1.9% in unspaced
scripts, n = 8 0.2% and none, n = 10 and 13 none. An evaluation text of fewer units has no n-gram and condemns nothing.

An n-gram that stands in many different evaluation texts is a formula ("everyone has the right to …"), not a trace of one of them, and condemns nothing. Texts of one
alignment group, and equal texts (a passage that several questions share), count once.
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
from pipeline.tables import open_file, read_table, rows, utf8
from pipeline.task import Task
from pipeline.text import ngrams
from stages.dedup.rows import U64, mapped, write

HASHES = pa.schema([pa.field("hash", pa.uint64(), nullable=False)])
BY_SET = pa.schema([pa.field("set", pa.int32(), nullable=False), pa.field("hash", pa.uint64(), nullable=False)])
FLAGS = pa.schema([pa.field("contaminated", pa.uint8(), nullable=False)])
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def contaminants(task: Task) -> None:
    """Worker: the n-grams of all text that training must not hold, and what was held out."""
    owners: dict[str, dict[str, None]] = {}
    sets: dict[str, set[str]] = {}
    groups: set[str] = set()
    held: dict[str, set[str]] = {"masked": set(), "pair": set()}
    for plain in task.argument["shards"]:
        shard = Shard(**plain)
        for row in task.records(rows(task.storage.local(shard.path, shard.sha256)), lambda row: str(row["lang"])):
            if row["task"] in held:
                held[row["task"]].add(row["document"].hex())
                if row["group"] is not None:
                    groups.add(row["group"])
            if row["decontaminate"] and row["split"] != "train":
                for text in (row["text"], row["text_pair"]):
                    if text is not None:
                        owner = f"text {text}" if row["group"] is None else f"group {row['set']} {row['group']}"
                        owners.setdefault(owner, {})[text] = None
                        sets.setdefault(row["set"], set()).add(owner)
                task.ledger.keep(row["lang"])
            else:
                task.ledger.drop(row["lang"], "may_be_trained_on")
    kinds: set[int] = set()
    found: dict[str, U64] = {}
    for owner, texts in owners.items():
        found[owner], lengths = ngrams.ngram_hashes(*utf8(pa.array(list(texts), pa.large_string())), task.settings["ngram"])
        kinds.update(lengths)
    nothing = np.zeros(0, np.uint64)
    every, counts = np.unique(np.concatenate([*found.values(), nothing]), return_counts=True)
    hashes = every[counts <= task.settings["max_texts"]]
    names = sorted(sets)
    mine = [np.unique(np.concatenate([*(found[owner] for owner in sets[name]), nothing])) for name in names]
    mine = [each[np.isin(each, hashes, assume_unique=True)] for each in mine]
    write(task, "contaminants", HASHES, {"hash": hashes})
    number = np.repeat(np.arange(len(names)), [len(each) for each in mine])
    write(task, "by_set", BY_SET, {"set": number, "hash": np.concatenate([*mine, nothing])})
    task.counts.update(
        {
            "groups": sorted(groups), "documents": sorted(held["masked"]), "pairs": sorted(held["pair"]), "hashes": len(hashes), "formulas": len(every) - len(hashes),
            "ngram_lengths": sorted(kinds), "sets": names,
        }
    )  # fmt: skip


class Evaluation:
    """What training must not hold: n-grams of evaluation text, held-out documents and pairs, and their alignment groups."""

    def __init__(self, task: Task) -> None:
        shard = Shard(**task.given["contaminants"])
        self._hashes = read_table(task.storage.local(shard.path, shard.sha256))["hash"].to_numpy()
        self._lengths = list(task.given["ngram_lengths"])
        self._groups = pa.array(task.given["groups"], pa.string())
        self._documents, self._pairs = (
            pa.array([bytes.fromhex(each) for each in task.given[name]], pa.binary(16)) for name in ("documents", "pairs")
        )

    def is_group(self, column: pa.Array) -> Mask:
        """Which alignment groups are held out."""
        return np.asarray(pc.is_in(column, value_set=self._groups))

    def is_document(self, column: pa.Array) -> Mask:
        """Which ids are of held-out documents."""
        return np.asarray(pc.is_in(column.cast(pa.binary(16)), value_set=self._documents))

    def is_pair(self, column: pa.Array) -> Mask:
        """Which ids are of held-out pairs."""
        return np.asarray(pc.is_in(column.cast(pa.binary(16)), value_set=self._pairs))

    def contaminates(self, column: pa.Array) -> Mask:
        """Which texts hold an n-gram of evaluation text."""
        return ngrams.shares_ngram(*utf8(column), self._hashes, self._lengths)


def overlap(task: Task) -> None:
    """Worker: which documents of one shard overlap evaluation text; how many by set and language, whatever else is said of them (held-out ones left out)."""
    held = Evaluation(task)
    by_set = mapped(task, task.given["by_set"])
    shard = Shard(**task.argument["shard"])
    reader = open_file(task.storage.local(shard.path, shard.sha256))
    found: list[Mask] = []
    sets: dict[str, Counter[str]] = {}
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        langs = batch.column("lang").to_pylist()
        taken = np.fromiter(task.records(range(batch.num_rows), langs.__getitem__, partial(row_place, batch)), np.int64)
        flags = np.zeros(batch.num_rows, np.bool_)
        if len(taken):
            part = batch.take(pa.array(taken)) if len(taken) < batch.num_rows else batch
            mine = held.contaminates(part.column("text"))
            mine &= ~held.is_document(part.column("id")) & ~held.is_group(part.column("group"))
            flags[taken] = mine
            some = np.flatnonzero(mine)
            texts = utf8(part.column("text").take(pa.array(some, pa.int64())))
            for place, name in enumerate(task.given["sets"] if len(some) else ()):
                own = by_set["hash"][by_set["set"] == place]
                for row in some[ngrams.shares_ngram(*texts, own, list(task.given["ngram_lengths"]))].tolist():
                    sets.setdefault(name, Counter())[langs[taken[row]]] += 1
        for lang, count in Counter(langs[row] for row in taken.tolist()).items():
            task.ledger.keep(lang, count)
        found.append(flags)
    write(task, "flags", FLAGS, {"contaminated": np.concatenate(found or [np.zeros(0, np.bool_)])})
    task.counts["sets"] = {name: dict(sorted(langs.items())) for name, langs in sorted(sets.items())}
