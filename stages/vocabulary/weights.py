"""Weights of languages in fixed point: n^(α−1), relative to the largest language, by integer arithmetic only.

The power is taken with `decimal` at 50 digits under its own context, which is correctly rounded and the same on every machine; a float's would not be.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StageError
from pipeline.tables import read_table

I64 = np.ndarray[Any, np.dtype[np.int64]]

_POINT_BITS = 21
BITS = 16
"""Bits after the point of a weight."""


def language_weights(characters: Mapping[str, int], alpha: float) -> dict[str, int]:
    """For each language with text, its count multiplier × 2^16, at least 1; 2^16 for the largest language.

    A language with n of the largest one's N characters gets (n / N)^(α−1), so that its weighted characters are ∝ n^α.
    """
    held = {lang: n for lang, n in sorted(characters.items()) if n > 0}
    if not held:
        return {}
    context = Context(prec=50, rounding=ROUND_HALF_EVEN)
    exponent = context.subtract(Decimal(repr(alpha)), Decimal(1))
    largest = Decimal(max(held.values()))
    weights = {}
    for lang, n in held.items():
        ratio = context.divide(Decimal(n), largest)
        weight = context.exp(context.multiply(exponent, context.ln(ratio)))
        weights[lang] = max(1, int(context.multiply(weight, Decimal(1 << BITS)).to_integral_value(ROUND_HALF_EVEN)))
    return weights


@dataclass(frozen=True)
class WeightedWords:
    """Words to train on, each once, sorted, with their weighted counts; and what was left out."""

    words: pa.Array
    counts: I64
    pruned_words: int
    pruned_millionths: int
    """Their share of all weighted counts."""


def weighted(counts: I64, weights: I64) -> I64:
    """Counts times their language's weight, rounded half up; at least 1, so that no word is lost.

    Raises:
        StageError: a product is beyond 64 bits.
    """
    if len(counts) and int(counts.max()) * int(weights.max()) > 1 << 62:
        raise StageError(
            f"vocabulary: a count of {int(counts.max())} times a weight of {int(weights.max())} is beyond 64 bits; give a larger alpha"
        )
    found: I64 = np.maximum(1, (counts * weights + (1 << (BITS - 1))) >> BITS)
    return found


def weighted_words(paths: Sequence[Path], weights: Mapping[str, int], max_words: int) -> WeightedWords:
    """All words with their weighted counts summed over languages; beyond `max_words` the rarest go, all of one count together."""
    parts = []
    for path in paths:  # a word lies in one partition only
        table = read_table(path)
        own = np.array([weights[lang] for lang in table["lang"].to_pylist()], np.int64)
        counted = pa.table({"word": table["word"], "count": weighted(table["count"].to_numpy(), own)})
        parts.append(counted.group_by("word", use_threads=False).aggregate([("count", "sum")]))
    every = pa.concat_tables(parts).rename_columns(["word", "count"])
    counts = every["count"].to_numpy()
    least = _least_count(counts, max_words)
    kept = every.filter(pa.array(counts >= least)).sort_by("word")
    lost = counts[counts < least]
    share = int(lost.sum()) * 1_000_000 // max(1, int(counts.sum()))
    return WeightedWords(kept["word"].combine_chunks(), kept["count"].to_numpy(), len(lost), share)


def _least_count(counts: I64, most: int) -> int:
    """The smallest count with which at most `most` words are left; never one that leaves none."""
    if len(counts) <= most:
        return 0
    bound = int(np.partition(counts, len(counts) - most - 1)[len(counts) - most - 1]) + 1
    return min(bound, int(counts.max()))


def required_characters(paths: Sequence[Path], share: float) -> str:
    """For each language the most frequent characters that make up `share` of its text, ties in code point order; sorted."""
    held: list[tuple[I64, I64]] = []
    names: dict[str, int] = {}
    for path in paths:
        table = read_table(path)
        lengths = pc.utf8_length(table["word"]).to_numpy()
        own = np.array([names.setdefault(lang, len(names)) for lang in table["lang"].to_pylist()], np.int64)
        points = np.frombuffer("".join(table["word"].to_pylist()).encode("utf-32-le"), np.uint32).astype(np.int64)
        held.append(_summed(np.repeat(own, lengths) << _POINT_BITS | points, np.repeat(table["count"].to_numpy(), lengths)))
    keys, counts = _summed(np.concatenate([key for key, _ in held]), np.concatenate([count for _, count in held]))
    chosen: set[int] = set()
    edges = np.searchsorted(keys, np.arange(len(names) + 1) << _POINT_BITS)
    for first, last in itertools.pairwise(edges.tolist()):
        chosen.update(_covering(keys[first:last] & ((1 << _POINT_BITS) - 1), counts[first:last], round(share * 1_000_000)))
    return "".join(map(chr, sorted(chosen)))


def _summed(keys: I64, counts: I64) -> tuple[I64, I64]:
    """Each key once, sorted, with the sum of its counts."""
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    return keys[starts], np.add.reduceat(counts, starts) if len(starts) else counts


def _covering(points: I64, counts: I64, millionths: int) -> Iterator[int]:
    needed = -(-int(counts.sum()) * millionths // 1_000_000)
    for place in np.lexsort((points, -counts)).tolist():
        if needed <= 0:
            return
        yield int(points[place])
        needed -= int(counts[place])
