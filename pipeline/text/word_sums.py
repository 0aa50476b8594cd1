"""Sums of counts that came in parts: each (word, language) once, compiled.

    runs of rows (word, language, count, hash of the word), each in order of the hash's high bits -> side by side -> each distinct pair once with its sum

The hash only finds rows: two are the same when language and bytes are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit, uint64

I64 = np.ndarray[Any, np.dtype[np.int64]]
I32 = np.ndarray[Any, np.dtype[np.int32]]
U64 = np.ndarray[Any, np.dtype[np.uint64]]
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
