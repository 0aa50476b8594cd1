"""Counting words, compiled: what `words.count_words` counts, over whole batches of texts and by language.

    data (UTF-8 of all texts), offsets, language of each -> words and their parts -> a hash table of the distinct ones -> word, language, count, 64-bit hash

A word is looked up by its bytes where it stands; only distinct words are ever copied. So the cost of all that follows (partitions, merges, training) goes
with the number of distinct words. Where words are cut is told in `words`; the two agree on every text, which a test holds them to.

Two entries are the same when language, bytes and the mark of a word's begin are: the hash only finds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit, uint64

from pipeline.text.kernels import _mix, _point
from pipeline.text.tables import ETHIOPIC_WORDSPACE, LONG, POINTS, SHORT, SPACE, SYMBOL, classes
from pipeline.text.words import MAX_LONG_WORD_CHARACTERS, MAX_SHORT_WORD_CHARACTERS, MAX_SPACED_CHARACTERS

_P = np.uint64(0x100000001B3)
_SEED = np.uint64(0xCBF29CE484222325)
_ROWS = 1 << 16
U64 = np.ndarray[Any, np.dtype[np.uint64]]
I64 = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Counted:
    """Distinct words in the order in which they first stand in the texts."""

    words: pa.Array
    """large_string, `▁` before a word that follows a space or begins a line."""
    languages: np.ndarray[Any, np.dtype[np.int32]]
    """As numbered by the caller."""
    counts: I64
    """How often; at least 1."""
    hashes: U64
    """Of the word alone, the same in every language; its high bits choose a partition."""


@njit(cache=True)
def _count(data: Any, offsets: Any, langs: Any, bits_of: Any, longest: Any, state: Any, rows: Any, hashes: Any, table: Any) -> bool:
    """Go on from `state` (text, place, whether a word begins there, rows used) to the end (true) or until the rows are full (false).

    A row is start, length, language, whether it begins a word, count. No array is made or replaced here: that would keep the compiler from holding their
    addresses, and take fifteen times as long.
    """
    t, at, first, used = state[0], state[1], state[2], state[3]
    mask = uint64(len(table) - 1)
    while t < len(offsets) - 1:
        end, lang = offsets[t + 1], langs[t]
        start, characters, kind, h = at, 0, -1, uint64(_SEED)
        while at <= end:
            if at < end:
                point, size = _point(data, at)
                bits = bits_of[point] if point < POINTS else SYMBOL
                parts = (bits & SPACE) != 0 and point != ETHIOPIC_WORDSPACE
            else:
                point, size, bits, parts = 32, 1, 0, True
            here = 1 if bits & SHORT else (2 if bits & LONG else 0)
            if characters and (parts or here != kind or characters >= longest[kind]):
                h = _mix(h + uint64(first))
                length = at - start
                slot = np.int64(_mix(h ^ uint64(lang)) & mask)
                while True:
                    row = table[slot]
                    if row < 0:
                        if used == len(rows):
                            state[0], state[1], state[2], state[3] = t, start, first, used
                            return False
                        rows[used, 0], rows[used, 1], rows[used, 2], rows[used, 3], rows[used, 4] = start, length, lang, first, 1
                        hashes[used] = h
                        table[slot] = used
                        used += 1
                        break
                    if hashes[row] == h and rows[row, 1] == length and rows[row, 2] == lang and rows[row, 3] == first:
                        i, place = 0, rows[row, 0]
                        while i < length and data[place + i] == data[start + i]:
                            i += 1
                        if i == length:
                            rows[row, 4] += 1
                            break
                    slot = (slot + 1) & np.int64(mask)
                first, characters, h = 0, 0, uint64(_SEED)
            if parts:
                first = 1
            else:
                if characters == 0:
                    start, kind = at, here
                characters += 1
                for b in range(size):
                    h = (h ^ uint64(data[at + b])) * uint64(_P)
            at += size
        t += 1
        at, first = end, 1
    state[3] = used
    return True


@njit(cache=True)
def _enter(table: Any, hashes: Any, rows: Any, used: int) -> None:
    """Put the rows into an empty table."""
    mask = uint64(len(table) - 1)
    for row in range(used):
        slot = np.int64(_mix(hashes[row] ^ uint64(rows[row, 2])) & mask)
        while table[slot] >= 0:
            slot = (slot + 1) & np.int64(mask)
        table[slot] = row


@njit(cache=True)
def _spelled(data: Any, rows: Any) -> Any:
    """The bytes of the words one behind the other, ▁ before those that begin one, and where each begins."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    for w in range(len(rows)):
        offsets[w + 1] = offsets[w] + rows[w, 1] + 3 * rows[w, 3]
    out = np.empty(offsets[len(rows)], np.uint8)
    for w in range(len(rows)):
        at = offsets[w]
        if rows[w, 3]:
            out[at], out[at + 1], out[at + 2] = 0xE2, 0x96, 0x81
            at += 3
        for i in range(rows[w, 1]):
            out[at + i] = data[rows[w, 0] + i]
    return out, offsets


def count_batch(data: np.ndarray[Any, np.dtype[np.uint8]], offsets: I64, languages: np.ndarray[Any, np.dtype[np.integer]]) -> Counted:
    """The distinct words of a batch of texts.

    Args:
        data: UTF-8 of all texts.
        offsets: where each text begins, and where the last ends, shape (texts + 1,).
        languages: number of each text's language, at least 0, shape (texts,).
    """
    longest = np.array([MAX_SPACED_CHARACTERS, MAX_SHORT_WORD_CHARACTERS, MAX_LONG_WORD_CHARACTERS], np.int64)
    numbers = np.asarray(languages, np.int32)
    state = np.array([0, offsets[0], 1, 0], np.int64)
    rows, hashes = np.empty((_ROWS, 5), np.int64), np.empty(_ROWS, np.uint64)
    table = np.full(2 * _ROWS, -1, np.int32)
    while not _count(data, offsets, numbers, classes(), longest, state, rows, hashes, table):
        rows, hashes = np.concatenate([rows, np.empty_like(rows)]), np.concatenate([hashes, np.empty_like(hashes)])
        table = np.full(2 * len(table), -1, np.int32)
        _enter(table, hashes, rows, state[3])
    rows, hashes = rows[: state[3]], hashes[: state[3]]
    spelled, bounds = _spelled(data, rows)
    words = pa.Array.from_buffers(pa.large_string(), len(rows), [None, pa.py_buffer(bounds), pa.py_buffer(spelled)])
    return Counted(words, rows[:, 2].astype(np.int32), rows[:, 4].copy(), hashes.copy())
