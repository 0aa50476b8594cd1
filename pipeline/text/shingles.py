"""Shingles of texts: hashes of the runs of words by which two texts are compared.

    text -> lower-cased units, no punctuation -> running hash of the units -> n-grams of it, 64 bits each

A unit is a word between white space and punctuation, marks kept; in scripts without spaces a character with its marks. A shingle is 5 words, or 10 characters where
most of the text is Han, Kana or Yi, 20 where it is Thai, Khmer, Burmese, Tibetan and the like: about as much text. What counts is the text alone, not the
language it is labelled as. A text of fewer units is one shingle; a text without any has none.

A text is an ordered run of bytes in a batch: `data` holds the UTF-8 of all texts (uint8), `offsets` where each begins and the last ends (int64, shape (texts + 1,)).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit, uint64

from pipeline.text.kernels import LETTERS_A_WORD_LONG, LETTERS_A_WORD_SHORT, _mix, _point, _power
from pipeline.text.tables import LONG, MARK, POINTS, SHORT, SPACE, SYMBOL, classes, lowered

WORDS_A_SHINGLE = 5

_P = np.uint64(0x100000001B3)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_SEED = np.uint64(0xCBF29CE484222325)
U64 = np.ndarray[Any, np.dtype[np.uint64]]
CLASS_SHIFT, LETTER_MASK = 24, (1 << 24) - 1


@cache
def letters() -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Class bits (from bit CLASS_SHIFT on) and lower case of each code point in one number, so that one look-up serves; uint32, shape (POINTS,)."""
    return lowered() | classes().astype(np.uint32) << np.uint32(CLASS_SHIFT)


@njit(cache=True, inline="always")
def entry_of(letters: Any, point: int) -> Any:
    """What `letters` says of a code point; of one beyond it, that it is a symbol."""
    return np.int64(letters[point]) if point < POINTS else (SYMBOL << CLASS_SHIFT) | point


SPACED, SHORT_WORDS, LONG_WORDS = 0, 1, 2
"""What most of a text is made of."""
FACTORS = (1, LETTERS_A_WORD_SHORT, LETTERS_A_WORD_LONG)


@njit(cache=True)
def longest_text(offsets: Any) -> int:
    """Bytes of the longest text."""
    longest = 0
    for t in range(len(offsets) - 1):
        longest = max(longest, offsets[t + 1] - offsets[t])
    return longest


@njit(cache=True)
def units_of(data: Any, at: int, end: int, letters: Any, prefix: Any) -> Any:
    """Fill `prefix` with the running hash of a text's units; how many there are, and what most of the text is."""
    units = short = long = other = 0
    h, running = uint64(_SEED), uint64(0)
    is_open, is_word = False, False
    prefix[0] = 0
    while at < end:
        point, size = _point(data, at)
        at += size
        entry = entry_of(letters, point)
        bits = entry >> CLASS_SHIFT
        if bits & (SPACE | SYMBOL):
            if is_open:
                units += 1
                running = running * uint64(_BASE) + _mix(h)
                prefix[units] = running
                is_open = False
            continue
        unspaced = (bits & (SHORT | LONG)) != 0
        joins = (bits & MARK) != 0
        if is_open and not joins and (unspaced or not is_word):
            units += 1
            running = running * uint64(_BASE) + _mix(h)
            prefix[units] = running
            is_open = False
        if not is_open:
            is_open, is_word = True, not unspaced
            h = uint64(_SEED)
        h = (h ^ uint64(entry & LETTER_MASK)) * uint64(_P)
        if unspaced:
            if bits & SHORT:
                short += 1
            else:
                long += 1
        elif not joins:
            other += 1
    if is_open:
        units += 1
        prefix[units] = running * uint64(_BASE) + _mix(h)
    kind = SPACED
    if short + long > other:
        kind = SHORT_WORDS if short >= long else LONG_WORDS
    return units, kind


@njit(cache=True)
def shingles_of(data: Any, at: int, end: int, letters: Any, prefix: Any, found: Any) -> int:
    """Write the shingles of a text, in order and repeated as they come, into `found`; returns how many."""
    units, kind = units_of(data, at, end, letters, prefix)
    n = WORDS_A_SHINGLE * FACTORS[kind]
    if units == 0:
        return 0
    if units < n:
        found[0] = _mix(prefix[units])
        return 1
    power = _power(n)
    for i in range(units - n + 1):
        found[i] = _mix(prefix[i + n] - prefix[i] * power)
    return units - n + 1


@njit(cache=True)
def _distinct(data: Any, offsets: Any, letters: Any) -> Any:
    texts = len(offsets) - 1
    longest = longest_text(offsets)
    prefix = np.empty(longest + 2, np.uint64)
    found = np.empty(longest + 2, np.uint64)
    out = np.empty(offsets[texts] - offsets[0] + texts, np.uint64)
    starts = np.zeros(texts + 1, np.int64)
    used = 0
    for t in range(texts):
        count = shingles_of(data, offsets[t], offsets[t + 1], letters, prefix, found)
        mine = np.sort(found[:count])
        for i in range(count):
            if i == 0 or mine[i] != mine[i - 1]:
                out[used] = mine[i]
                used += 1
        starts[t + 1] = used
    return out[:used].copy(), starts


def distinct_shingles(
    data: np.ndarray[Any, np.dtype[np.uint8]], offsets: np.ndarray[Any, np.dtype[np.int64]]
) -> tuple[U64, np.ndarray[Any, np.dtype[np.int64]]]:
    """The distinct shingles of each text, sorted: all of them one behind the other, and where each text's begin, shape (texts + 1,)."""
    values, starts = _distinct(data, offsets, letters())
    return values, starts
