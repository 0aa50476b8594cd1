"""Sums of counts that came in parts: each (word, language) once, compiled.

    rows of (word, language, count) in any order  -> summed: a hash table over the rows -> each distinct pair once with its sum
    runs of such rows, each by the hash's key     -> merged: side by side               -> the same, ordered by (hash, word, language)

The hash only finds rows: two are the same when language and bytes are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit, uint64

from pipeline.text.kernels import _mix

I64 = np.ndarray[Any, np.dtype[np.int64]]
I32 = np.ndarray[Any, np.dtype[np.int32]]
U64 = np.ndarray[Any, np.dtype[np.uint64]]
_P = np.uint64(0x100000001B3)
_SEED = np.uint64(0xCBF29CE484222325)


@njit(cache=True)
def _hashes(data: Any, offsets: Any, out: Any) -> None:
    for w in range(len(offsets) - 1):
        h = uint64(_SEED)
        for at in range(offsets[w], offsets[w + 1]):
            h = (h ^ uint64(data[at])) * uint64(_P)
        out[w] = _mix(h)


@njit(cache=True)
def _sum(data: Any, offsets: Any, langs: Any, counts: Any, hashes: Any, table: Any, sums: Any, firsts: Any) -> int:
    """The row where each distinct pair first stands, and its sum; how many there are."""
    mask = uint64(len(table) - 1)
    used = 0
    for w in range(len(offsets) - 1):
        length = offsets[w + 1] - offsets[w]
        slot = np.int64(_mix(hashes[w] ^ uint64(langs[w])) & mask)
        while True:
            entry = table[slot]
            if entry < 0:
                table[slot] = used
                firsts[used], sums[used] = w, counts[w]
                used += 1
                break
            row = firsts[entry]
            if hashes[row] == hashes[w] and langs[row] == langs[w] and offsets[row + 1] - offsets[row] == length:
                i = 0
                while i < length and data[offsets[row] + i] == data[offsets[w] + i]:
                    i += 1
                if i == length:
                    sums[entry] += counts[w]
                    break
            slot = (slot + 1) & np.int64(mask)
    return used


def summed(words: pa.Array, langs: I32, counts: I64) -> tuple[I64, I64]:
    """Where each distinct (word, language) first stands, and its summed count.

    Args:
        words: large_string, shape (rows,).
        langs: number of each row's language.
        counts: of each row.
    """
    offsets = np.frombuffer(words.buffers()[1], np.int64)[words.offset : words.offset + len(words) + 1]
    held = words.buffers()[2]
    data = np.frombuffer(held, np.uint8) if held is not None else np.zeros(0, np.uint8)
    hashes, sums, firsts = np.empty(len(words), np.uint64), np.empty(len(words), np.int64), np.empty(len(words), np.int64)
    _hashes(data, offsets, hashes)
    table = np.full(1 << max(4, (2 * len(words)).bit_length()), -1, np.int32)
    used = _sum(data, offsets, langs, counts, hashes, table, sums, firsts)
    return firsts[:used], sums[:used]


_ROOM = 1 << 14
"""Rows of a key that are put in order at a time; more where a key has more."""


@njit(cache=True)
def _comes_first(data: Any, offsets: Any, langs: Any, a: int, b: int) -> int:
    """Whether row a comes before row b (-1), behind it (1), or is the same word of the same language (0): words by their bytes, then languages."""
    i, j, end_a, end_b = offsets[a], offsets[b], offsets[a + 1], offsets[b + 1]
    while i < end_a and j < end_b:
        if data[i] != data[j]:
            return -1 if data[i] < data[j] else 1
        i += 1
        j += 1
    if end_a - i != end_b - j:
        return -1 if end_a - i < end_b - j else 1
    if langs[a] != langs[b]:
        return -1 if langs[a] < langs[b] else 1
    return 0


@njit(cache=True)
def _merge_runs(
    data: Any, offsets: Any, langs: Any, counts: Any, hashes: Any, heads: Any, ends: Any, first: int, last: int, rows: Any, own: Any, firsts: Any, sums: Any
) -> int:  # fmt: skip
    """Merge runs of rows [heads, ends), each in order of keys, which lie in [first, last]; how many distinct rows there are, or -1 where a key has more rows
    than there is room for in `rows`."""
    used = 0
    for key in range(first, last + 1):
        found = 0
        for run in range(len(heads)):
            at, end = heads[run], ends[run]
            while at < end and np.int64(hashes[at] >> uint64(48)) == key:
                if found == len(rows):
                    return -1
                rows[found], own[found] = at, hashes[at]
                found += 1
                at += 1
            heads[run] = at
        order = np.argsort(own[:found])
        place = 0
        while place < found:
            # Rows of one hash: nearly always one word, in some languages.
            same, begin = own[order[place]], used
            while place < found and own[order[place]] == same:
                row = rows[order[place]]
                place += 1
                to, side = used, 1
                while to > begin:
                    side = _comes_first(data, offsets, langs, firsts[to - 1], row)
                    if side <= 0:
                        break
                    to -= 1
                if to > begin and side == 0:
                    sums[to - 1] += counts[row]
                    continue
                for i in range(used, to, -1):
                    firsts[i], sums[i] = firsts[i - 1], sums[i - 1]
                firsts[to], sums[to] = row, counts[row]
                used += 1
    return used


def merged(words: pa.Array, langs: I32, counts: I64, hashes: U64, bounds: I64) -> tuple[I64, I64]:
    """Sums over runs of rows, each in order of the hashes' 16 high bits: the rows that stand for each distinct (word, language), ordered by hash, word and
    language, and their sums.

    Reads all runs from front to back side by side, so that nearly nothing is looked up in far memory.

    Args:
        words: large_string, shape (rows,).
        langs: rank of each row's language, which equal words are ordered by.
        counts: of each row.
        hashes: of each row's word.
        bounds: where each run begins, and the last ends, shape (runs + 1,).
    """
    offsets = np.frombuffer(words.buffers()[1], np.int64)[words.offset : words.offset + len(words) + 1]
    held = words.buffers()[2]
    data = np.frombuffer(held, np.uint8) if held is not None else np.zeros(0, np.uint8)
    firsts, sums = np.empty(len(words), np.int64), np.empty(len(words), np.int64)
    if not len(words):
        return firsts, sums
    first, last, room = int(hashes.min()) >> 48, int(hashes.max()) >> 48, _ROOM
    while True:
        used = _merge_runs(
            data, offsets, langs, counts, hashes, bounds[:-1].copy(), bounds[1:], first, last, np.empty(room, np.int64), np.empty(room, np.uint64), firsts, sums
        )  # fmt: skip
        if used >= 0:
            return firsts[:used], sums[:used]
        room *= 4
