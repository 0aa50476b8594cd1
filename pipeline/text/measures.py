"""What the quality rules look at: counts and shares of one normalised text, all whole numbers.

Definitions follow Gopher (Rae et al. 2021, appendix A.1.1) as FineWeb2 applies it to about 1,900 languages, with two
departures: in scripts without spaces words are estimated (`words.measure_words`) and the repeated 2-gram is one of four
characters, and letters count with their combining marks. Shares are in 1/10,000, rounded down, so that no float decides
what is kept.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from pipeline.text.characters import MARKS
from pipeline.text.hashing import ngram_units
from pipeline.text.words import measure_words

SCALE = 10_000
_LETTERS = re.compile(f"(?:[^\\W\\d_]|[{MARKS}])+")
_DIGITS = re.compile(r"\d+")
_ELLIPSIS = re.compile(r"…|\.\.\.")


@dataclass(frozen=True, slots=True)
class Measures:
    """Counts and shares of one text."""

    characters: int
    """Code points."""
    words: int
    """Words, estimated in scripts without spaces."""
    lines: int
    """Lines that are not empty."""
    duplicate_line_share: int
    """Lines that stood before in the text, per 10,000 lines."""
    duplicate_line_characters_share: int
    """Characters of those lines, per 10,000 characters of all lines."""
    top_2gram_share: int
    """Characters of all occurrences of the most frequent 2-gram, per 10,000 characters; at most 10,000, and 0 if none comes twice."""
    letters_share: int
    """Letters and combining marks, per 10,000 characters that are no white space."""
    digits_share: int
    """Decimal digits of any script, per 10,000 characters that are no white space."""
    symbol_word_ratio: int
    """Number signs or ellipses, whichever are more, per 10,000 words; may exceed 10,000."""
    mean_word_length: int
    """Characters that are no white space, per 100 words, so 100 times the mean length."""


def measure(text: str, spaced: bool) -> Measures:
    """Measure one normalised text; every figure of an empty text is 0.

    Args:
        text: normalised text.
        spaced: whether spaces separate words in its language (`Language.spaced`).
    """
    lines = [line for line in text.split("\n") if line]
    words = measure_words(text, spaced)
    solid = sum(map(len, text.split()))
    counts = Counter(lines)
    repeated = [(line, count - 1) for line, count in counts.items() if count > 1]
    symbols = max(text.count("#"), len(_ELLIPSIS.findall(text)))
    return Measures(
        characters=len(text),
        words=words,
        lines=len(lines),
        duplicate_line_share=_per(sum(count for _, count in repeated), len(lines)),
        duplicate_line_characters_share=_per(sum(len(line) * count for line, count in repeated), sum(map(len, lines))),
        top_2gram_share=_top_2gram_share(text, spaced),
        letters_share=_per(sum(map(len, _LETTERS.findall(text))), solid),
        digits_share=_per(sum(map(len, _DIGITS.findall(text))), solid),
        symbol_word_ratio=_per(symbols, words),
        mean_word_length=solid * 100 // words if words else 0,
    )


def _per(part: int, whole: int) -> int:
    return part * SCALE // whole if whole else 0


def _top_2gram_share(text: str, spaced: bool) -> int:
    """Of equally frequent grams the longest counts, so that the figure does not hang on their order."""
    units = text.split() if spaced else ngram_units(text)
    n = 2 if spaced else 4
    joint = " " if spaced else ""
    grams = Counter(zip(*(units[start:] for start in range(n)), strict=False))
    most = max(grams.values(), default=0)
    if most < 2:
        return 0
    longest = max(len(joint.join(gram)) for gram, count in grams.items() if count == most)
    return min(SCALE, _per(longest * most, len(text)))
