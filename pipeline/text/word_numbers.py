"""Words by number: each distinct word between spaces gets the next number when it is first seen, in compiled code over UTF-8.

    data, offsets of texts -> words -> 64-bit hash -> open-addressed table -> the same bytes? -> its number, else a new one and a copy of its bytes

Equal numbers mean equal bytes: the hash only says where to look. A word may be empty (two spaces, or one at an end of a text); an empty text has no word.

Legend: N texts, W words, D distinct words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numba import uint64 as numba_uint64

uint64: Any = numba_uint64
I64 = np.ndarray[Any, np.dtype[np.int64]]
U8 = np.ndarray[Any, np.dtype[np.uint8]]

_SPACE = 0x20


class WordNumbers:
    """All words seen so far."""

    def __init__(self) -> None:
        self.known = 0
        self._slots = np.full(1 << 12, -1, np.int32)
        self._hashes = np.zeros(1 << 10, np.uint64)  # [D]
        self._ends = np.zeros(1 << 10, np.int64)  # [D] of each word's bytes
        self._bytes = np.zeros(1 << 14, np.uint8)

    def __call__(self, data: U8, offsets_N1: I64) -> tuple[I64, I64]:
        """The number of each word [W], and how many words there are before each text and in all [N + 1]."""
        most = int((data[offsets_N1[0] : offsets_N1[-1]] == _SPACE).sum()) + len(offsets_N1)
        self._hashes, self._ends = grown(self._hashes, self.known + most), grown(self._ends, self.known + most)
        used = int(self._ends[self.known - 1]) if self.known else 0
        self._bytes = grown(self._bytes, used + int(offsets_N1[-1] - offsets_N1[0]))
        size = len(self._slots)
        while size < 2 * (self.known + most):
            size *= 2
        if size > len(self._slots):
            self._slots = _slots(self._hashes[: self.known], size)
        number_W, before_N1, self.known = _number(data, offsets_N1, self._slots, self._hashes, self._ends, self._bytes, self.known, most)
        return number_W, before_N1

    def words(self, first: int) -> tuple[U8, I64]:
        """The bytes of the words from number `first` on, one behind the other, and where each ends."""
        begin = int(self._ends[first - 1]) if first else 0
        ends = self._ends[first : self.known]
        return self._bytes[begin : int(ends[-1]) if len(ends) else begin], ends - begin


def grown(array: Any, size: int) -> Any:
    """The array, or a longer copy that holds `size` values."""
    if size <= len(array):
        return array
    longer = np.zeros(max(size, 2 * len(array)), array.dtype)
    longer[: len(array)] = array
    return longer


@njit(cache=True)
def _slots(hashes: Any, size: int) -> Any:
    slots = np.full(size, -1, np.int32)
    for number in range(len(hashes)):
        at = np.int64(hashes[number] & uint64(size - 1))
        while slots[at] >= 0:
            at = (at + 1) & (size - 1)
        slots[at] = number
    return slots


@njit(cache=True)
def _number(data: Any, offsets: Any, slots: Any, hashes: Any, ends: Any, held: Any, known: int, most: int) -> Any:
    numbers, before = np.empty(most, np.int64), np.zeros(len(offsets), np.int64)
    used: Any = ends[known - 1] if known > 0 else np.int64(0)
    mask = len(slots) - 1
    words: Any = 0
    for text in range(len(offsets) - 1):
        begin, last = offsets[text], offsets[text + 1]
        if begin < last:
            while begin <= last:
                h = uint64(0xCBF29CE484222325)
                end = begin
                while end < last and data[end] != _SPACE:
                    h = (h ^ uint64(data[end])) * uint64(0x100000001B3)
                    end += 1
                h = (h ^ (h >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
                h ^= h >> uint64(27)
                size = end - begin
                at = np.int64(h & uint64(mask))
                number = np.int64(slots[at])
                while number >= 0:
                    if hashes[number] == h:
                        start = ends[number - 1] if number > 0 else np.int64(0)
                        same = ends[number] - start == size
                        if same:
                            for n in range(size):
                                if held[start + n] != data[begin + n]:
                                    same = False
                                    break
                        if same:
                            break
                    at = (at + 1) & mask
                    number = np.int64(slots[at])
                if number < 0:
                    number, known = np.int64(known), known + 1
                    slots[at], hashes[number] = number, h
                    held[used : used + size] = data[begin:end]
                    used += size
                    ends[number] = used
                numbers[words] = number
                words += 1
                begin = end + 1
        before[text + 1] = words
    return numbers[:words], before, known
