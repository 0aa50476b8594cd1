"""Weights of languages in fixed point: n^(α−1), relative to the largest language, by integer arithmetic only.

The power is taken with `decimal` at 50 digits under its own context, which is correctly rounded and the same on every machine; a float's would not be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError, StageError
from pipeline.tables import read_table, utf8
from pipeline.training.unimax import weights_unimax
from stages.vocabulary import Config

I64 = np.ndarray[Any, np.dtype[np.int64]]

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


def weights_for(config: Config, characters: Mapping[str, int]) -> dict[str, int]:
    """The count multiplier × 2^16 of each language with text, by the configured way of sampling; languages of a group share the multiplier of their sum.

    Raises:
        ConfigError: a language with text has no explicit weight.
    """
    group_of = {lang: name for name, langs in config.groups.items() for lang in langs}
    sums: dict[str, int] = {}
    for lang, n in characters.items():
        sums[group_of.get(lang, lang)] = sums.get(group_of.get(lang, lang), 0) + n
    sums = {name: n for name, n in sums.items() if n > 0}
    if config.sampling == "alpha":
        found = language_weights(sums, config.alpha)
    elif config.sampling == "unimax":
        found = _multipliers(weights_unimax(sums, sum(sums.values()), config.max_epochs), sums)
    else:
        missing = sorted(sums.keys() - config.language_weights.keys())
        if missing:
            raise ConfigError(
                f"vocabulary.language_weights has no weight for {', '.join(missing[:10])}, which has text; give each language or group with text a weight above 0"
            )
        found = _multipliers({name: Fraction(repr(config.language_weights[name])) for name in sums}, sums)
    return {lang: found[group_of.get(lang, lang)] for lang, n in sorted(characters.items()) if n > 0}


def _multipliers(shares: Mapping[str, Fraction | int], sums: Mapping[str, int]) -> dict[str, int]:
    """What brings each language's characters to its share, × 2^16: 2^16 where it is least."""
    ratios = {name: Fraction(shares[name]) / n for name, n in sums.items()}
    least = min(ratios.values())
    return {name: max(1, round(ratio / least * (1 << BITS))) for name, ratio in ratios.items()}


@dataclass(frozen=True)
class WeightedWords:
    """The words of all partitions with their weighted counts, read anew for each pass; and what is left out of them."""

    paths: Sequence[Path]
    weights: Mapping[str, int]
    least: int
    """Words of a language below this weighted count are left out."""
    pruned_words: int
    pruned_millionths: int
    """Their share of all weighted counts."""

    def __call__(self) -> Iterator[tuple[pa.Array, I64]]:
        """Words and weighted counts, a partition at a time; a word comes once for each of its languages."""
        for path in self.paths:
            table = read_table(path)
            counts = weighted(table["count"].to_numpy(), _weights_of(table["lang"], self.weights))
            words = table["word"].combine_chunks()
            if self.least > 1:
                kept = counts >= self.least
                words, counts = words.filter(pa.array(kept)), counts[kept]
            yield words, counts


def weighted_words(paths: Sequence[Path], weights: Mapping[str, int], max_words: int) -> WeightedWords:
    """All words with their weighted counts; beyond `max_words` the rarest go, all of one count together."""
    every = WeightedWords(paths, weights, 0, 0, 0)
    counts = np.concatenate([own for _, own in every()] or [np.zeros(0, np.int64)])
    least = _least_count(counts, max_words)
    lost = counts[counts < least]
    share = int(lost.sum()) * 1_000_000 // max(1, int(counts.sum()))
    return WeightedWords(paths, weights, least, len(lost), share)


def _weights_of(langs: pa.ChunkedArray, weights: Mapping[str, int]) -> I64:
    """The weight of the language of each row."""
    encoded = langs.combine_chunks().dictionary_encode()
    own = np.array([weights[lang] for lang in encoded.dictionary.to_pylist()], np.int64)
    return own[encoded.indices.to_numpy()]


def _least_count(counts: I64, most: int) -> int:
    """The smallest count with which at most `most` words are left; never one that leaves none."""
    if len(counts) <= most:
        return 0
    bound = int(np.partition(counts, len(counts) - most - 1)[len(counts) - most - 1]) + 1
    return min(bound, int(counts.max()))


def required_characters(paths: Sequence[Path], share: float) -> str:
    """For each language the most frequent characters that make up `share` of its text, ties in code point order; sorted."""
    if not share:
        return ""
    from pipeline.text.alphabet import PointsByLanguage  # compiled code that workers alone need

    found = PointsByLanguage()
    for path in paths:
        table = read_table(path)
        encoded = table["lang"].combine_chunks().dictionary_encode()
        found.add(
            *utf8(table["word"].combine_chunks()), table["count"].to_numpy(), encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
        )
    chosen: set[int] = set()
    for lang in found.langs:
        chosen.update(_covering(*found.of(lang), round(share * 1_000_000)))
    return "".join(map(chr, sorted(chosen)))


def _covering(points: I64, counts: I64, millionths: int) -> Iterator[int]:
    needed = -(-int(counts.sum()) * millionths // 1_000_000)
    for place in np.lexsort((points, -counts)).tolist():
        if needed <= 0:
            return
        yield int(points[place])
        needed -= int(counts[place])
