"""The vocabulary's card: what a trained vocabulary does to each language, from the word counts; shares and ratios in 1/10,000.

fertility               pieces a word                        characters_per_piece     without the mark of a word's begin
unknown_share           pieces that are `<unk>`              byte_fallback_share      pieces that are single bytes
pieces_used             distinct pieces that occur           weight                   the language's count multiplier × 2^16
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tables import open_file
from pipeline.text.packing import UNK
from pipeline.text.tokenizer import SPACE, Tokenizer

_WORDS_AT_ONCE = 20_000
_SUMS = ("words", "pieces", "characters", "unknown", "bytes")
I64 = np.ndarray[Any, np.dtype[np.int64]]


def measured(paths: Sequence[Path], tokenizer: Tokenizer, weights: Mapping[str, int]) -> tuple[dict[str, Any], dict[str, int]]:
    """The card, and the words counted by language; `paths` hold rows of (lang, word, count)."""
    langs = {lang: number for number, lang in enumerate(sorted(weights))}
    sums = np.zeros((len(langs), len(_SUMS)), np.int64)
    used = np.zeros((len(langs), tokenizer.size), np.bool_)
    is_byte = np.zeros(tokenizer.size, np.bool_)
    is_byte[list(tokenizer.byte_ids)] = True
    for path in paths:
        reader = open_file(path)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            for start in range(0, batch.num_rows, _WORDS_AT_ONCE):
                _add(batch.slice(start, _WORDS_AT_ONCE), tokenizer, langs, sums, used, is_byte)
    languages = {
        lang: {**_figures(sums[row]), "pieces_used": int(used[row].sum()), "weight": weights[lang]}
        for lang, row in langs.items()
        if sums[row, 0]
    }
    card = {"size": tokenizer.size, "languages": languages, "mean": _figures(sums.sum(axis=0)), "pieces_used": int(used.any(axis=0).sum())}
    return card, {lang: int(sums[row, 0]) for lang, row in langs.items() if sums[row, 0]}


def _add(batch: pa.RecordBatch, tokenizer: Tokenizer, langs: Mapping[str, int], sums: I64, used: Any, is_byte: Any) -> None:
    # Pieces of one word are those it has within a text: its own leading mark stands for the space.
    ids, lengths = tokenizer.encode_words(batch.column("word").to_pylist())
    rows = np.array([langs[lang] for lang in batch.column("lang").to_pylist()], np.int64)
    counts = batch.column("count").to_numpy()
    marks = pc.starts_with(batch.column("word"), SPACE).to_numpy(zero_copy_only=False)
    characters = pc.utf8_length(batch.column("word")).to_numpy() - marks
    word_of = np.repeat(np.arange(len(lengths)), lengths)
    unknown, single = (np.bincount(word_of[mask], minlength=len(lengths)) for mask in (ids == UNK, is_byte[ids]))
    for column, each in enumerate((np.ones_like(counts), lengths, characters, unknown, single)):
        np.add.at(sums[:, column], rows, counts * each)
    used[rows[word_of], ids] = True


def _figures(sums: I64) -> dict[str, int]:
    own = dict(zip(_SUMS, sums.tolist(), strict=True))
    pieces = max(1, own["pieces"])
    return {
        "words": own["words"],
        "pieces": own["pieces"],
        "characters": own["characters"],
        "fertility": own["pieces"] * 10_000 // max(1, own["words"]),
        "characters_per_piece": own["characters"] * 10_000 // pieces,
        "unknown_share": own["unknown"] * 10_000 // pieces,
        "byte_fallback_share": own["bytes"] * 10_000 // pieces,
    }
