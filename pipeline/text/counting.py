"""Counting words, compiled: what `words.count_words` counts, over whole batches of texts and by language.

    data (UTF-8 of all texts), offsets, language of each -> words and their parts, as 32-byte records in buckets by hash -> the distinct ones of each bucket
        -> word, language, count, 64-bit hash

Most of the time of a large hash table goes to far memory; a bucket's table and records lie in a core's cache, so that three steps take half of what one did.
A word is compared by its bytes where it stands; only distinct words are ever copied. So the cost of all that follows (partitions, merges, training) goes
with the number of distinct words. Where words are cut is told in `words`; the two agree on every text, which a test holds them to.

Two entries are the same when language, bytes and the mark of a word's begin are: the hash only finds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit, uint64

from pipeline.text.kernels import _mix, _point
from pipeline.text.tables import ETHIOPIC_WORDSPACE, LONG, POINTS, SHORT, SPACE, classes
from pipeline.text.words import MAX_LONG_WORD_CHARACTERS, MAX_SHORT_WORD_CHARACTERS, MAX_SPACED_CHARACTERS

_P = np.uint64(0x100000001B3)
_SEED = np.uint64(0xCBF29CE484222325)
_PARTS = 3
_START = 33
"""A token's last column: where it stands from this bit on, its language from bit 17, whether it begins a word at bit 16, its bytes below."""
_SHAPE = (1 << _START) - 1
BUCKET_BYTES = 1 << 16
"""Text to a bucket, some 10,000 words."""
MOST_BITS = 9
"""More buckets than these would be written slower than they save."""
U64 = np.ndarray[Any, np.dtype[np.uint64]]
I64 = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Counted:
    """Distinct words by the key of their hash (see `keys`), within it in the order in which they first stand in the texts."""

    words: pa.Array
    """large_string, `▁` before a word that follows a space or begins a line."""
    languages: np.ndarray[Any, np.dtype[np.int32]]
    """As numbered by the caller."""
    counts: I64
    """How often; at least 1."""
    hashes: U64
    """Of the word alone, the same in every language; its high bits, the key, choose a partition."""


def keys(hashes: U64) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The 16 high bits: few enough that sorting by them takes a pass or two."""
    return (hashes >> np.uint64(48)).astype(np.uint16)


@cache
def kinds() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What each code point is to a word, shape (POINTS,): of a spaced script (0), of an unspaced one of short (1) or long words (2), or what parts words (3)."""
    bits = classes()
    found = np.where(bits & SHORT, 1, np.where(bits & LONG, 2, 0)).astype(np.uint8)
    found[(bits & SPACE) != 0] = _PARTS
    found[ETHIOPIC_WORDSPACE] = 0
    return found


@njit(cache=True)
def _walk(data: Any, offsets: Any, langs: Any, kind_of: Any, longest: Any, shift: Any, at_B: Any, tokens: Any) -> None:
    """Go over all words. Where `tokens` has no rows, count those of each bucket, which is told by the hash's bits from `shift` on; else write each to its bucket's
    next row: hash, first 8 bytes, next 8 bytes, and the rest as `_START` tells."""
    writes = len(tokens) > 0
    for t in range(len(offsets) - 1):
        at, end, lang = offsets[t], offsets[t + 1], np.int64(langs[t])
        start, characters, limit, kind, h, first = at, 0, 0, -1, uint64(_SEED), 1
        while at <= end:
            size, here = 1, _PARTS
            if at < end:
                byte = data[at]
                if byte < 0x80:
                    here = int(kind_of[byte])
                else:
                    point, size = _point(data, at)
                    here = int(kind_of[point]) if point < POINTS else 0
            if here != kind or characters >= limit:
                if characters:
                    h = _mix(h + uint64(first))
                    bucket = np.int64(h >> shift)
                    if writes:
                        head, head_2 = uint64(0), uint64(0)
                        for i in range(min(8, at - start)):
                            head |= uint64(data[start + i]) << uint64(8 * i)
                        for i in range(8, min(16, at - start)):
                            head_2 |= uint64(data[start + i]) << uint64(8 * i - 64)
                        row = at_B[bucket]
                        tokens[row, 0], tokens[row, 1], tokens[row, 2] = np.int64(h), np.int64(head), np.int64(head_2)
                        tokens[row, 3] = (start << _START) | (lang << 17) | (first << 16) | (at - start)
                    at_B[bucket] += 1
                    first, h = 0, uint64(_SEED)
                characters = 0
                if here == _PARTS:
                    first, kind = 1, -1
                    at += size
                    continue
                start, kind, limit = at, here, longest[here]
            characters += 1
            for b in range(size):
                h = (h ^ uint64(data[at + b])) * uint64(_P)
            at += size


@njit(cache=True)
def _distinct(data: Any, tokens: Any, ends_B: Any, table: Any, rows: Any, counts: Any) -> int:
    """The row where each distinct token first stands and how often it does, bucket by bucket, in a table that a core's cache holds; how many there are."""
    used, begin = 0, 0
    for bucket in range(len(ends_B)):
        end, slots = ends_B[bucket], 16
        while slots < 2 * (end - begin):
            slots *= 2
        mask = slots - 1
        table[:slots] = -1
        for token in range(begin, end):
            # The bucket is told by the high bits, so the low ones are free to tell the slot. Languages of a word are apart by a step that hangs on their number.
            slot = (tokens[token, 0] + (tokens[token, 3] >> 17 & 0xFFFF) * 0x9E3779B1) & mask
            while True:
                entry = table[slot]
                if entry < 0:
                    table[slot] = used
                    rows[used], counts[used] = token, 1
                    used += 1
                    break
                row = rows[entry]
                if (
                    tokens[row, 0] == tokens[token, 0] and tokens[row, 1] == tokens[token, 1] and tokens[row, 2] == tokens[token, 2]
                    and (tokens[row, 3] ^ tokens[token, 3]) & _SHAPE == 0
                ):  # fmt: skip
                    i, length, place, here = 16, tokens[row, 3] & 0xFFFF, tokens[row, 3] >> _START, tokens[token, 3] >> _START
                    while i < length and data[place + i] == data[here + i]:
                        i += 1
                    if i >= length:
                        counts[entry] += 1
                        break
                slot = (slot + 1) & mask
        begin = end
    return used


@njit(cache=True)
def _spelled(data: Any, tokens: Any) -> Any:
    """The bytes of the words one behind the other, ▁ before those that begin one, and where each begins."""
    offsets = np.zeros(len(tokens) + 1, np.int64)
    for w in range(len(tokens)):
        offsets[w + 1] = offsets[w] + (tokens[w, 3] & 0xFFFF) + 3 * (tokens[w, 3] >> 16 & 1)
    out = np.empty(offsets[len(tokens)], np.uint8)
    for w in range(len(tokens)):
        at, length = offsets[w], tokens[w, 3] & 0xFFFF
        if tokens[w, 3] >> 16 & 1:
            out[at], out[at + 1], out[at + 2] = 0xE2, 0x96, 0x81
            at += 3
        for i in range(min(8, length)):
            out[at + i] = np.uint8(tokens[w, 1] >> (8 * i) & 0xFF)
        for i in range(8, min(16, length)):
            out[at + i] = np.uint8(tokens[w, 2] >> (8 * i - 64) & 0xFF)
        start = tokens[w, 3] >> _START
        for i in range(16, length):
            out[at + i] = data[start + i]
    return out, offsets


def count_batch(data: np.ndarray[Any, np.dtype[np.uint8]], offsets: I64, languages: np.ndarray[Any, np.dtype[np.integer]]) -> Counted:
    """The distinct words of a batch of texts.

    Args:
        data: UTF-8 of all texts.
        offsets: where each text begins, and where the last ends, shape (texts + 1,).
        languages: number of each text's language, at least 0, shape (texts,).
    """
    if int(offsets[-1]) >> (63 - _START) or (len(languages) and int(np.max(languages)) >> 16):
        raise ValueError(f"count_batch: {int(offsets[-1])} bytes or a language numbered beyond 65,535; count less at once")
    longest = np.array([MAX_SPACED_CHARACTERS, MAX_SHORT_WORD_CHARACTERS, MAX_LONG_WORD_CHARACTERS], np.int64)
    numbers = np.asarray(languages, np.int32)
    bits = min(MOST_BITS, max(1, int(offsets[-1] - offsets[0]) // BUCKET_BYTES).bit_length())
    shift, at_B = np.uint64(64 - bits), np.zeros(1 << bits, np.int64)
    _walk(data, offsets, numbers, kinds(), longest, shift, at_B, np.empty((0, 4), np.int64))
    tokens, most = np.empty((int(at_B.sum()), 4), np.int64), int(at_B.max())
    if not len(tokens):
        return Counted(pa.array([], pa.large_string()), np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.uint64))
    at_B = np.cumsum(at_B) - at_B
    _walk(data, offsets, numbers, kinds(), longest, shift, at_B, tokens)  # which moves each to its bucket's end
    rows, counts = np.empty(len(tokens), np.int64), np.empty(len(tokens), np.int64)
    used = int(_distinct(data, tokens, at_B, np.empty(1 << max(4, (2 * most).bit_length()), np.int32), rows, counts))
    rows, counts = rows[:used], counts[:used]
    hashes = tokens[rows, 0].view(np.uint64)
    order = np.argsort(keys(hashes), kind="stable")
    tokens = tokens[rows[order]]
    spelled, bounds = _spelled(data, tokens)
    words = pa.Array.from_buffers(pa.large_string(), used, [None, pa.py_buffer(bounds), pa.py_buffer(spelled)])
    return Counted(words, (tokens[:, 3] >> 17 & 0xFFFF).astype(np.int32), counts[order], hashes[order])
