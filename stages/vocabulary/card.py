"""The vocabulary's card: what a trained vocabulary does to each language, from the word counts; shares and ratios in 1/10,000.

    partition of the counts -> measure (a unit a partition) -> sums and pieces met, a row a language -> assemble -> card.json

fertility               pieces a word                        characters_per_piece     without the mark of a word's begin
unknown_share           pieces that are `<unk>`              byte_fallback_share      pieces that are single bytes
pieces_used             distinct pieces that occur           weight                   the language's count multiplier × 2^16
pieces_used_share       of all ids                           parity                   pieces against English's on aligned documents (`parity`)
longest                 the longest pieces                   compared                 cards of other vocabularies on the same words, by name; `before`: it began as that
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tables import open_file, rows
from pipeline.text.packing import UNK
from pipeline.text.tokenizer import SPACE, Tokenizer

_WORDS_AT_ONCE = 20_000
_SUMS = ("words", "pieces", "characters", "unknown", "bytes")
I64 = np.ndarray[Any, np.dtype[np.int64]]

MEASURED = pa.schema(
    [
        pa.field("lang", pa.string(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in _SUMS),
        pa.field("used", pa.binary(), nullable=False),
    ]
)
"""A row a language: weighted sums over its words, and which ids occur, a bit each."""


def measure(path: Path, tokenizer: Tokenizer) -> dict[str, list[Any]]:
    """The columns of `MEASURED` for one partition; its rows are (lang, word, count)."""
    numbers: dict[str, int] = {}
    sums: list[I64] = []
    used: list[np.ndarray[Any, np.dtype[np.bool_]]] = []
    is_byte = np.zeros(tokenizer.size, np.bool_)
    is_byte[list(tokenizer.byte_ids)] = True
    reader = open_file(path)
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        for start in range(0, batch.num_rows, _WORDS_AT_ONCE):
            piece = batch.slice(start, _WORDS_AT_ONCE)
            encoded = piece.column("lang").dictionary_encode()
            for lang in encoded.dictionary.to_pylist():
                if lang not in numbers:
                    numbers[lang] = len(sums)
                    sums.append(np.zeros(len(_SUMS), np.int64))
                    used.append(np.zeros(tokenizer.size, np.bool_))
            own = np.array([numbers[lang] for lang in encoded.dictionary.to_pylist()], np.int64)
            _add(piece, own[encoded.indices.to_numpy()], tokenizer, sums, used, is_byte)
    order = sorted(numbers)
    columns: dict[str, list[Any]] = {"lang": list(order), "used": [np.packbits(used[numbers[lang]]).tobytes() for lang in order]}
    return columns | {name: [int(sums[numbers[lang]][column]) for lang in order] for column, name in enumerate(_SUMS)}


def _add(batch: pa.RecordBatch, langs: I64, tokenizer: Tokenizer, sums: list[I64], used: list[Any], is_byte: Any) -> None:
    # Pieces of one word are those it has within a text: its own leading mark stands for the space.
    ids, lengths = tokenizer.encode_words(batch.column("word"))
    counts = batch.column("count").to_numpy()
    marks = pc.starts_with(batch.column("word"), SPACE).to_numpy(zero_copy_only=False)
    characters = pc.utf8_length(batch.column("word")).to_numpy() - marks
    word_of = np.repeat(np.arange(len(lengths)), lengths)
    unknown, single = (np.bincount(word_of[mask], minlength=len(lengths)) for mask in (ids == UNK, is_byte[ids]))
    each = np.stack([np.ones_like(counts), lengths, characters, unknown, single], axis=1) * counts[:, None]
    lang_of = langs[word_of]
    for lang in np.unique(langs).tolist():
        sums[lang] += each[langs == lang].sum(axis=0)
        used[lang][ids[lang_of == lang]] = True


def assemble(paths: Iterable[Path], size: int, weights: Mapping[str, int]) -> tuple[dict[str, Any], dict[str, int]]:
    """The card, and the words counted by language, from the measures of all partitions."""
    sums: dict[str, I64] = {}
    used: dict[str, Any] = {}
    for path in paths:
        for row in rows(path):
            lang = row["lang"]
            sums[lang] = sums.get(lang, 0) + np.array([row[name] for name in _SUMS], np.int64)
            used[lang] = used.get(lang, np.zeros(size, np.bool_)) | np.unpackbits(np.frombuffer(row["used"], np.uint8), count=size).astype(
                np.bool_
            )
    languages = {lang: {**_figures(sums[lang]), "pieces_used": int(used[lang].sum()), "weight": weights[lang]} for lang in sorted(sums)}
    every = np.sum([*sums.values(), np.zeros(len(_SUMS), np.int64)], axis=0)
    met = np.any([*used.values(), np.zeros(size, np.bool_)], axis=0)
    for entry in languages.values():
        entry["pieces_used_share"] = entry["pieces_used"] * 10_000 // size
    card = {"size": size, "languages": languages, "mean": _figures(every), "pieces_used": int(met.sum())}
    return card, {lang: int(sums[lang][0]) for lang in sorted(sums)}


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
