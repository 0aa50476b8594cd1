"""Sums of counts that came in parts: each (word, language) once, compiled; and an order of words that costs no comparison of strings.

    rows of (word, language, count), part by part -> a hash table over the rows -> each distinct pair once with its sum -> ordered by (hash, language)

The hash only finds rows: two are the same when language and bytes are. Where two different words of a language share all 64 bits, their bytes decide the order.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def summed(words: pa.Array, langs: I32, counts: I64) -> tuple[I64, I64, U64]:
    """Where each distinct (word, language) first stands, its summed count, and the hash of its word.

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
    return firsts[:used], sums[:used], hashes[firsts[:used]]


def ordered(words: pa.Array, langs: Sequence[str] | pa.Array, hashes: U64) -> I64:
    """The order of distinct rows by hash, then word, then language: the same whatever order they came in."""
    names = pa.array(langs, pa.string()) if not isinstance(langs, pa.Array) else langs
    encoded = names.dictionary_encode()
    rank = np.argsort(np.argsort(np.array(encoded.dictionary.to_pylist(), dtype=object).astype(str), kind="stable"), kind="stable")
    lang = rank[encoded.indices.to_numpy()] if len(names) else np.zeros(0, np.int64)
    order: I64 = np.lexsort((lang, hashes))
    same = np.flatnonzero((hashes[order][1:] == hashes[order][:-1]) & (lang[order][1:] == lang[order][:-1]))
    if len(same):  # two words of a language with one hash
        texts = words.take(pa.array(order)).to_pylist()
        exact = sorted(range(len(order)), key=lambda row: (int(hashes[order[row]]), texts[row], int(lang[order[row]])))
        order = order[np.array(exact)]
    return order
