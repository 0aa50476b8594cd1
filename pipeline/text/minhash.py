"""MinHash signatures and true Jaccard similarity of texts, for near-duplicates (Broder 1997; the 14 bands of 8 rows are datatrove's).

    text -> lower-cased units, no punctuation -> n-grams, 64-bit hashes (shingles) -> 112 minima -> 14 band hashes          (`band_hashes`)
    two texts that share a band hash are candidates -> |A ∩ B| / |A ∪ B| over their distinct shingles, in 1/10,000         (`jaccard`)

A unit is a word between white space and punctuation, marks kept; in scripts without spaces a character with its marks. A shingle is 5 words, or 10 characters where
most of the text is Han, Kana or Yi, 20 where it is Thai, Khmer, Burmese, Tibetan and the like: about as much text. What counts is the text alone, not the
language it is labelled as. A text of fewer units is one shingle; a text without any has none and is no one's near-duplicate.

At similarity s a pair becomes a candidate with probability 1 − (1 − s^8)^14: .56 at .70, .77 at .75, .92 at .80, .99 at .85.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numba import njit, uint64

from pipeline.text.kernels import LETTERS_A_WORD_LONG, LETTERS_A_WORD_SHORT, _mix, _point, _power
from pipeline.text.tables import DIGIT, LONG, MARK, POINTS, SHORT, SPACE, SYMBOL, classes, lowered

BANDS, ROWS = 14, 8
WORDS_A_SHINGLE = 5

_P = np.uint64(0x100000001B3)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_SEED = np.uint64(0xCBF29CE484222325)
U64 = np.ndarray[Any, np.dtype[np.uint64]]


@cache
def multipliers() -> tuple[U64, U64]:
    """The 112 odd multipliers and the addends of the hash functions h(x) = (a·x + b) mod 2^64 >> 32 (multiply-shift, Dietzfelbinger et al. 1997)."""
    stream = b"".join(blake2b(number.to_bytes(4, "big"), digest_size=16, key=b"minhash").digest() for number in range(BANDS * ROWS))
    drawn = np.frombuffer(stream, ">u8").astype(np.uint64).reshape(-1, 2)
    return np.ascontiguousarray(drawn[:, 0] | np.uint64(1)), np.ascontiguousarray(drawn[:, 1])


SPACED, SHORT_WORDS, LONG_WORDS = 0, 1, 2
"""What most of a text is made of."""
_FACTORS = (1, LETTERS_A_WORD_SHORT, LETTERS_A_WORD_LONG)


@njit(cache=True)
def _units(data: Any, at: int, end: int, bits_of: Any, lower: Any, prefix: Any) -> Any:
    """Fill `prefix` with the running hash of a text's units; how many there are, and what most of the text is."""
    units = short = long = other = 0
    h, is_open, is_word = uint64(_SEED), False, False
    prefix[0] = 0
    while at <= end:
        if at < end:
            point, size = _point(data, at)
            bits = bits_of[point] if point < POINTS else SYMBOL
        else:
            point, size, bits = 10, 1, SPACE
        parts = (bits & (SPACE | SYMBOL)) != 0
        unspaced = (bits & (SHORT | LONG)) != 0
        joins = (bits & MARK) != 0
        if is_open and (parts or (not joins and (unspaced or not is_word))):
            units += 1
            prefix[units] = prefix[units - 1] * uint64(_BASE) + _mix(h)
            h, is_open = uint64(_SEED), False
        if not parts:
            if not is_open:
                is_open, is_word = True, not unspaced
            h = (h ^ uint64(lower[point] if point < POINTS else point)) * uint64(_P)
            if bits & SHORT:
                short += 1
            elif bits & LONG:
                long += 1
            elif not joins:
                other += 1
        at += size
    kind = SPACED
    if short + long > other:
        kind = SHORT_WORDS if short >= long else LONG_WORDS
    return units, kind


@njit(cache=True)
def _shingles(data: Any, at: int, end: int, bits_of: Any, lower: Any, prefix: Any, found: Any) -> int:
    """Write the shingles of a text, in order and repeated as they come, into `found`; returns how many."""
    units, kind = _units(data, at, end, bits_of, lower, prefix)
    n = WORDS_A_SHINGLE * _FACTORS[kind]
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
def _band_hashes(data: Any, offsets: Any, bits_of: Any, lower: Any, a: Any, b: Any) -> Any:
    texts = len(offsets) - 1
    longest = 0
    for t in range(texts):
        longest = max(longest, offsets[t + 1] - offsets[t])
    prefix = np.empty(longest + 2, np.uint64)
    found = np.empty(longest + 2, np.uint64)
    minima = np.empty(len(a), np.uint32)
    out = np.zeros((texts, BANDS), np.uint64)
    counts = np.zeros(texts, np.int64)
    for t in range(texts):
        count = _shingles(data, offsets[t], offsets[t + 1], bits_of, lower, prefix, found)
        counts[t] = count
        if count == 0:
            continue
        minima[:] = 0xFFFFFFFF
        for i in range(count):
            x = found[i]
            for j in range(len(a)):
                h = np.uint32((a[j] * x + b[j]) >> uint64(32))
                minima[j] = min(minima[j], h)
        for band in range(BANDS):
            mixed = uint64(band + 1)
            for j in range(band * ROWS, (band + 1) * ROWS):
                mixed = _mix(mixed * uint64(_BASE) + uint64(minima[j]))
            out[t, band] = mixed
    return out, counts


def band_hashes(data: np.ndarray[Any, np.dtype[np.uint8]], offsets: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[U64, Any]:
    """Band hashes of a batch of texts.

    Args:
        data: UTF-8 of all texts.
        offsets: where each text begins, and where the last ends, shape (texts + 1,).

    Returns:
        uint64, shape (texts, BANDS), and the number of shingles of each text, int64 (0: it has no band hash).
    """
    a, b = multipliers()
    bands, counts = _band_hashes(data, offsets, classes(), lowered(), a, b)
    return bands, counts


@njit(cache=True)
def _distinct(data: Any, offsets: Any, bits_of: Any, lower: Any) -> Any:
    texts = len(offsets) - 1
    longest = 0
    for t in range(texts):
        longest = max(longest, offsets[t + 1] - offsets[t])
    prefix = np.empty(longest + 2, np.uint64)
    found = np.empty(longest + 2, np.uint64)
    out = np.empty(offsets[texts] - offsets[0] + texts, np.uint64)
    starts = np.zeros(texts + 1, np.int64)
    used = 0
    for t in range(texts):
        count = _shingles(data, offsets[t], offsets[t + 1], bits_of, lower, prefix, found)
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
    values, starts = _distinct(data, offsets, classes(), lowered())
    return values, starts


@njit(cache=True)
def jaccard(values: Any, starts: Any, pairs: Any) -> Any:
    """Jaccard similarity of pairs of texts in 1/10,000, rounded down.

    Args:
        values, starts: as `distinct_shingles` gives them.
        pairs: row numbers of two texts, int64, shape (pairs, 2).

    Returns:
        int64, shape (pairs,); 0 where neither has a shingle.
    """
    out = np.zeros(len(pairs), np.int64)
    for p in range(len(pairs)):
        i, i_end = starts[pairs[p, 0]], starts[pairs[p, 0] + 1]
        j, j_end = starts[pairs[p, 1]], starts[pairs[p, 1] + 1]
        union = (i_end - i) + (j_end - j)
        shared = 0
        while i < i_end and j < j_end:
            if values[i] == values[j]:
                shared += 1
                i += 1
                j += 1
            elif values[i] < values[j]:
                i += 1
            else:
                j += 1
        union -= shared
        if union:
            out[p] = shared * 10_000 // union
    return out


@njit(cache=True)
def components(nodes: int, edges: Any) -> Any:
    """The smallest node of each node's component, by union-find.

    Args:
        nodes: how many there are.
        edges: pairs of nodes, int64, shape (edges, 2).

    Returns:
        int64, shape (nodes,).
    """
    root = np.arange(nodes)
    for e in range(len(edges)):
        a, b = edges[e, 0], edges[e, 1]
        while root[a] != a:
            root[a] = root[root[a]]
            a = root[a]
        while root[b] != b:
            root[b] = root[root[b]]
            b = root[b]
        if a < b:
            root[b] = a
        elif b < a:
            root[a] = b
    for n in range(nodes):
        r = n
        while root[r] != r:
            r = root[r]
        root[n] = r
    return root


@njit(cache=True)
def _ngrams(data: Any, offsets: Any, words: int, bits_of: Any, lower: Any) -> Any:
    texts = len(offsets) - 1
    longest = 0
    for t in range(texts):
        longest = max(longest, offsets[t + 1] - offsets[t])
    prefix = np.empty(longest + 2, np.uint64)
    out = np.empty(offsets[texts] - offsets[0] + texts, np.uint64)
    kinds = np.empty(texts, np.int64)
    used = 0
    for t in range(texts):
        units, kinds[t] = _units(data, offsets[t], offsets[t + 1], bits_of, lower, prefix)
        n = words * _FACTORS[kinds[t]]
        power = _power(n)
        for i in range(units - n + 1):
            out[used] = _mix(prefix[i + n] - prefix[i] * power)
            used += 1
    return out[:used].copy(), kinds


def ngram_hashes(
    data: np.ndarray[Any, np.dtype[np.uint8]], offsets: np.ndarray[Any, np.dtype[np.int64]], words: int
) -> tuple[U64, list[int]]:
    """The distinct n-grams of some texts together, and the lengths in units that they have.

    Args:
        data, offsets: as for `band_hashes`.
        words: length of an n-gram; in scripts without spaces so many times 2 or 4 characters. A shorter text has none.

    Returns:
        64-bit hashes, sorted, shape (distinct n-grams,), and the lengths, sorted.
    """
    values, kinds = _ngrams(data, offsets, words, classes(), lowered())
    return np.unique(values), sorted({words * _FACTORS[kind] for kind in kinds.tolist()})


@njit(cache=True)
def _shares_ngram(data: Any, offsets: Any, lengths: Any, hashes: Any, bits_of: Any, lower: Any) -> Any:
    texts = len(offsets) - 1
    longest = 0
    for t in range(texts):
        longest = max(longest, offsets[t + 1] - offsets[t])
    prefix = np.empty(longest + 2, np.uint64)
    out = np.zeros(texts, np.bool_)
    # A sieve of 16 bits a hash ends nearly all searches in one look-up.
    bits = 16
    while (1 << bits) < 16 * len(hashes) and bits < 27:
        bits += 1
    sieve = np.zeros(1 << (bits - 3), np.uint8)
    for h in hashes:
        place = h >> uint64(64 - bits)
        sieve[place >> uint64(3)] |= np.uint8(1 << (place & uint64(7)))
    for t in range(texts):
        units, _ = _units(data, offsets[t], offsets[t + 1], bits_of, lower, prefix)
        for n in lengths:
            power = _power(n)
            for i in range(units - n + 1):
                h = _mix(prefix[i + n] - prefix[i] * power)
                place = h >> uint64(64 - bits)
                if sieve[place >> uint64(3)] & np.uint8(1 << (place & uint64(7))):
                    at = np.searchsorted(hashes, h)
                    if at < len(hashes) and hashes[at] == h:
                        out[t] = True
                        break
            if out[t]:
                break
    return out


def shares_ngram(
    data: np.ndarray[Any, np.dtype[np.uint8]], offsets: np.ndarray[Any, np.dtype[np.int64]], hashes: U64, lengths: list[int]
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which texts hold one of the n-grams that `ngram_hashes` gave; bool, shape (texts,). Case and punctuation do not count."""
    if not len(hashes):
        return np.zeros(len(offsets) - 1, np.bool_)
    found: np.ndarray[Any, np.dtype[np.bool_]] = _shares_ngram(data, offsets, np.array(lengths, np.int64), hashes, classes(), lowered())
    return found


@njit(cache=True)
def _line_hashes(data: Any, offsets: Any, least: int, bits_of: Any, lower: Any) -> Any:
    texts = len(offsets) - 1
    room = 0
    for at in range(offsets[0], offsets[texts]):
        if data[at] == 10:
            room += 1
    room += texts
    text_of = np.empty(room, np.int64)
    line_of = np.empty(room, np.int32)
    first = np.empty(room, np.uint64)
    second = np.empty(room, np.uint64)
    lines = np.empty(texts, np.int32)
    used = 0
    for t in range(texts):
        at, end = offsets[t], offsets[t + 1]
        line, characters, gap = 0, 0, False
        h, g = uint64(_SEED), uint64(1)
        while at <= end:
            if at < end:
                point, size = _point(data, at)
            else:
                point, size = 10, 1
            if point == 10:
                if characters >= least:
                    text_of[used], line_of[used], first[used], second[used] = t, line, _mix(h), _mix(g)
                    used += 1
                line += 1
                characters, gap = 0, False
                h, g = uint64(_SEED), uint64(1)
            else:
                characters += 1
                bits = bits_of[point] if point < POINTS else SYMBOL
                if bits & SPACE:
                    gap = h != uint64(_SEED)
                elif not bits & SYMBOL:
                    if gap:
                        h = (h ^ uint64(32)) * uint64(_P)
                        g = (g + uint64(32)) * uint64(_BASE)
                        gap = False
                    value = uint64(48) if bits & DIGIT else uint64(lower[point] if point < POINTS else point)
                    h = (h ^ value) * uint64(_P)
                    g = _mix(g + value) * uint64(_BASE)
            at += size
        lines[t] = line
    return text_of[:used].copy(), line_of[:used].copy(), first[:used].copy(), second[:used].copy(), lines


def line_hashes(
    data: np.ndarray[Any, np.dtype[np.uint8]], offsets: np.ndarray[Any, np.dtype[np.int64]], min_characters: int
) -> tuple[Any, Any, U64, U64, Any]:
    """128 bits for each line of at least so many characters, equal for lines that differ only in case, in which digits they have, and in punctuation.

    As cc_net's paragraph key (Wenzek et al. 2020), but combining marks stay, without which many Indic and Thai lines would be one.

    Returns:
        text (int64) and line number (int32) of each such line, its two hashes (uint64 each), and the number of lines of each text (int32).
    """
    text_of, line_of, first, second, lines = _line_hashes(data, offsets, min_characters, classes(), lowered())
    return text_of, line_of, first, second, lines


@njit(cache=True)
def count_lines(data: Any, offsets: Any) -> Any:
    """The number of lines of each text, one more than it has line feeds; int32, shape (texts,)."""
    out = np.ones(len(offsets) - 1, np.int32)
    for t in range(len(out)):
        feeds = 0
        for at in range(offsets[t], offsets[t + 1]):
            feeds += data[at] == 10
        out[t] += feeds
    return out
