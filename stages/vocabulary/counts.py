"""Word counts on their way from texts to one table a partition.

    texts, languages -> WordCounter (compiled; distinct words only are copied) -> write_words: by the key of the hash, batch p of the file is partition p, by its high bits
    batch p of all files -> merge_words: runs read side by side, summed by (word, language), ordered by (hash of the word, word, language)

Counts are 64-bit. A merge holds one partition at a time: memory goes with distinct words ÷ partitions, never with the corpus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.manifest import Shard
from pipeline.tables import open_file, utf8
from pipeline.task import Task

WORDS = pa.schema(
    [
        pa.field("lang", pa.string(), nullable=False),
        pa.field("word", pa.large_string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
COUNTED = WORDS.append(pa.field("hash", pa.uint64(), nullable=False))
"""Of one file: each partition by the key of the word's hash."""
COUNT_BYTES = 32 << 20
"""UTF-8 bytes of text that are counted at once."""


class WordCounter:
    """Counts the words of many texts."""

    def __init__(self) -> None:
        self._texts: list[pa.Array] = []
        self._langs: list[str] = []
        self._bytes = 0
        self._counted: list[pa.Table] = []

    def add(self, texts: pa.Array, langs: Sequence[str]) -> None:
        """Take texts (large_string) with their languages."""
        self._texts.append(texts)
        self._langs += langs
        self._bytes += texts.nbytes
        if self._bytes >= COUNT_BYTES:
            self._count()

    def _count(self) -> None:
        if not self._langs:
            return
        from pipeline.text.counting import count_batch  # compiled code, here and below, is for workers: the driver does without its memory

        names, numbers = np.unique(np.array(self._langs, dtype=object).astype(str), return_inverse=True)
        found = count_batch(*utf8(pa.concat_arrays(self._texts)), numbers)
        lang = pa.array([str(name) for name in names], pa.string()).take(pa.array(found.languages))
        self._counted.append(pa.table([lang, found.words, pa.array(found.counts), pa.array(found.hashes)], schema=COUNTED))
        self._texts, self._langs, self._bytes = [], [], 0

    def table(self) -> pa.Table:
        """All counts so far, a row a word and language, by the key of the word's hash."""
        self._count()
        if len(self._counted) > 1:
            self._counted = [_merged(self._counted)]
        return self._counted[0] if self._counted else COUNTED.empty_table()


def write_words(task: Task, counter: WordCounter) -> None:
    """Write what was counted, cut into the phase's partitions."""
    from pipeline.text.counting import keys

    partitions = task.settings["partitions"]
    table = counter.table()
    columns = {name: table[name].combine_chunks() for name in COUNTED.names}
    number = keys(columns["hash"].to_numpy()).astype(np.int64) * partitions >> 16
    with task.table("words", COUNTED) as writer:
        for start, stop in pairwise(np.searchsorted(number, np.arange(partitions + 1)).tolist()):
            writer.partition({name: column.slice(start, stop - start) for name, column in columns.items()})


def merge_words(task: Task, shards: Sequence[Mapping[str, Any]], number: int) -> pa.Table:
    """Partition `number` of all files, summed and sorted."""
    batches = [open_file(task.storage.local(shard.path, shard.sha256)).get_batch(number) for shard in (Shard(**plain) for plain in shards)]
    return _merged([pa.Table.from_batches([batch]) for batch in batches]).select(WORDS.names)


def _merged(runs: Sequence[pa.Table]) -> pa.Table:
    """Runs of `COUNTED`, each by key, as one: each (word, language) once, ordered by hash, word and language."""
    from pipeline.text.word_sums import merged

    whole = pa.concat_tables(runs).combine_chunks()
    words, langs, counts, hashes = (whole[name].combine_chunks() for name in ("word", "lang", "count", "hash"))
    encoded = langs.dictionary_encode()
    rank = np.argsort(np.argsort(np.array(encoded.dictionary.to_pylist(), dtype=object).astype(str), kind="stable"), kind="stable")
    ranks = rank.astype(np.int32)[encoded.indices.to_numpy()] if len(words) else np.zeros(0, np.int32)
    bounds = np.cumsum([0, *(run.num_rows for run in runs)], dtype=np.int64)
    firsts, sums = merged(words, ranks, counts.to_numpy(), hashes.to_numpy(), bounds)
    rows = pa.array(firsts)
    return pa.table([langs.take(rows), words.take(rows), pa.array(sums), hashes.take(rows)], schema=COUNTED)
