"""Words cut where no piece can reach over, each distinct part once: what the merges of a vocabulary are searched in.

    ▁Menschen, 41   ▁(Menschen 7   -> ▁Menschen 41, Menschen 7 …       a part of one character holds no pair and is left out
    flat: | ▁ M e n s c h e n | M e n s c h e n |                      int32, a code point a cell, a divider before each part and behind the last

No piece holds letters of two scripts, a character outside the alphabet, or (where digits are split) a digit and anything else; so a word falls into parts that
share no pair, and the same part of many words is stored once with the sum of their counts. Memory: 4 bytes a character of distinct parts, 16 a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit, uint64

from pipeline.text.alphabet import ANY, POINTS, WORD_BEGIN, scripts
from pipeline.text.kernels import _mix, _point

I64 = np.ndarray[Any, np.dtype[np.int64]]
I32 = np.ndarray[Any, np.dtype[np.int32]]

DIVIDER = -1
OUTSIDE = 254
"""Class of a character that stands in no piece but its own."""
_P = np.uint64(0x100000001B3)
_SEED = np.uint64(0xCBF29CE484222325)
_ROOM = 1 << 10
"""More columns than words: most words have one part, some none, few have several."""


def point_classes(alphabet: list[int], split_digits: bool) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Script class of each code point, `OUTSIDE` for what joins nothing: not in the alphabet, or a digit that is kept alone."""
    found = np.full(POINTS, OUTSIDE, np.uint8)
    found[alphabet] = scripts()[alphabet]
    if split_digits:
        for first, last in ((0x30, 0x39), (0xFF10, 0xFF19)):  # the digits that sentencepiece means: ASCII and full-width
            found[first : last + 1] = OUTSIDE
    return found


@njit(cache=True, inline="always")
def _tag(h: Any) -> Any:
    """Seven bits of a hash that its slot does not hang on, never 0, which is an empty slot's."""
    return np.uint8((h >> uint64(56)) | uint64(1))


@njit(cache=True, nogil=True)
def _cut(
    data: Any, offsets: Any, weights: Any, classes: Any, state: Any, flat: Any, starts: Any, counts: Any, table: Any, tags: Any
) -> bool:
    """Go on from `state` (word, place, parts, cells) to the end (true) or until the columns of parts are full (false)."""
    w, at, parts, cells = state[0], state[1], state[2], state[3]
    mask = uint64(len(table) - 1)
    while w < len(offsets) - 1:
        end = offsets[w + 1]
        while at < end:
            if parts + 1 >= len(starts):
                state[0], state[1], state[2], state[3] = w, at, parts, cells
                return False
            first, before, n, h = cells + 1, ANY, 0, uint64(_SEED)
            while at < end:
                point, size = _point(data, at)
                kind = classes[point]
                if kind == OUTSIDE:
                    if n == 0:
                        at += size
                    break
                if n and (point == WORD_BEGIN or (kind != ANY and before != ANY and kind != before)):
                    break
                flat[first + n] = point
                h = (h ^ uint64(point)) * uint64(_P)
                before = kind  # a mark may go with either side, so a part is cut only where two letters meet
                n += 1
                at += size
            if n < 2:
                continue
            h = _mix(h)
            slot, tag = np.int64(h & mask), _tag(h)
            while True:
                if tags[slot] == 0:
                    table[slot], tags[slot] = parts, tag
                    starts[parts], counts[parts] = first, weights[w]
                    parts += 1
                    flat[first + n] = DIVIDER
                    cells = first + n
                    starts[parts] = cells + 1
                    break
                if tags[slot] == tag:  # else another part, and no need to look it up far away
                    part = table[slot]
                    begin = starts[part]
                    if starts[part + 1] - begin - 1 == n:
                        i = 0
                        while i < n and flat[begin + i] == flat[first + i]:
                            i += 1
                        if i == n:
                            counts[part] += weights[w]
                            break
                slot = (slot + 1) & np.int64(mask)
        w += 1
        if w < len(offsets) - 1:
            at = offsets[w]
    state[0], state[1], state[2], state[3] = w, at, parts, cells
    return True


@njit(cache=True, nogil=True)
def _enter(table: Any, tags: Any, flat: Any, starts: Any, parts: int) -> None:
    mask = uint64(len(table) - 1)
    for part in range(parts):
        h = uint64(_SEED)
        for i in range(starts[part], starts[part + 1] - 1):
            h = (h ^ uint64(flat[i])) * uint64(_P)
        h = _mix(h)
        slot = np.int64(h & mask)
        while tags[slot] != 0:
            slot = (slot + 1) & np.int64(mask)
        table[slot], tags[slot] = part, _tag(h)


def _tables(parts: int) -> tuple[I32, np.ndarray[Any, np.dtype[np.uint8]]]:
    """A table for so many parts, three quarters full at most, and the tags of its slots: a power of two of them."""
    slots = 1 << (parts * 4 // 3).bit_length()
    return np.empty(slots, np.int32), np.zeros(slots, np.uint8)


class _Collected:
    """The parts of the words that one thread takes, in cells of its own."""

    def __init__(self, flat: I32, words: int) -> None:
        self.flat = flat
        self.flat[0] = DIVIDER
        self.starts, self.counts = np.empty(words + _ROOM, np.int64), np.empty(words + _ROOM, np.int64)
        self.starts[0] = 1
        self.table, self.tags = _tables(words + _ROOM)
        self.parts = self.cells = 0

    def add(self, classes: np.ndarray[Any, np.dtype[np.uint8]], data: Any, offsets: I64, counts: I64) -> None:
        if len(offsets) < 2:
            return
        state = np.array([0, offsets[0], self.parts, self.cells], np.int64)
        while not _cut(data, offsets, counts, classes, state, self.flat, self.starts, self.counts, self.table, self.tags):
            size = len(self.starts) * 5 // 4
            # In place, which moves no page where the allocator can help it.
            self.starts.resize(size, refcheck=False)
            self.counts.resize(size, refcheck=False)
            self.table, self.tags = _tables(0)  # gone before their successors come
            self.table, self.tags = _tables(size)
            _enter(self.table, self.tags, self.flat, self.starts, int(state[2]))
        self.parts, self.cells = int(state[2]), int(state[3])


class Fragments:
    """Collects the parts of words, by several threads side by side. A part that two of them meet is there twice, which costs cells and changes no pair's count."""

    def __init__(self, classes: np.ndarray[Any, np.dtype[np.uint8]], sizes: Sequence[tuple[int, int]]) -> None:
        """`classes` as `point_classes` gives them; `sizes`: characters and number of the words that each thread will take, at least.

        Cells and columns that are never written cost no memory; one allocation lets the kernel use large pages, without which most of the time is spent on looking up addresses.
        """
        self._classes = classes
        rooms = [(characters + words) * 3 // 2 + 2 for characters, words in sizes]  # a part has at least two characters and one divider
        self._flat = np.empty(sum(rooms), np.int32)
        ends = np.cumsum(rooms).tolist()
        self._collected = [
            _Collected(self._flat[end - room : end], words) for end, room, (_, words) in zip(ends, rooms, sizes, strict=True)
        ]

    def add(self, thread: int, data: Any, offsets: I64, counts: I64) -> None:
        """Add words, UTF-8 and where each begins, with how often each stands."""
        self._collected[thread].add(self._classes, data, offsets, counts)

    def taken(self) -> tuple[I32, I64]:
        """All cells, a divider at either end, and the count of each part, in order; they are held here no more, and nothing may be added."""
        cells, counts = 0, []
        for own in self._collected:
            own.table, own.tags = _tables(0)
            counts.append(own.counts[: own.parts].copy())
            own.starts = own.counts = np.zeros(0, np.int64)
            self._flat[cells : cells + own.cells + 1] = own.flat[: own.cells + 1]  # the last divider of one is the first of the next
            cells += own.cells
            own.flat = np.zeros(0, np.int32)
        flat, self._flat, self._collected = self._flat, np.zeros(0, np.int32), []
        flat.resize(cells + 1, refcheck=False)  # its own memory, which whoever takes it may give back in part
        return flat, np.concatenate(counts)
