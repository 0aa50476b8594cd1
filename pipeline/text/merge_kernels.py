"""Compiled parts of `merges`: weights and pairs of neighbours in the cells, and the heap of pairs. `merges` tells what the arrays hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, uint64

from pipeline.text.alphabet import ANY
from pipeline.text.fragments import DIVIDER
from pipeline.text.kernels import _mix

LONGEST = 16
"""Characters of a piece, at most (sentencepiece's default)."""
_BASE = 64
"""A divider is -(_BASE + weight), or -(_BASE + _LARGE + its number in a table) where the weight is too large for that."""
_LARGE = 1 << 30


@njit(cache=True, inline="always")
def _weight(cells: Any, large: Any, at: int) -> Any:
    """The weight of the part that holds the place where a piece begins."""
    while True:
        value = cells[at - 1]
        if value <= -_BASE:
            own = -np.int64(value) - _BASE
            return own if own < _LARGE else large[own - _LARGE]
        at += value if value < 0 else -1


@njit(cache=True)
def _spread(cells: Any, counts: Any, numbers: Any, large: Any) -> Any:
    """Code points become numbers of pieces, dividers weights; returns the weighted number of neighbours."""
    part, used, neighbours, weight = 0, 0, np.int64(0), np.int64(0)
    for at in range(len(cells)):
        if cells[at] != DIVIDER:
            cells[at] = numbers[cells[at]]
            neighbours += weight if cells[at - 1] >= 0 else 0
        elif part < len(counts):
            weight = counts[part]
            if counts[part] < _LARGE:
                cells[at] = -(_BASE + counts[part])
            else:
                large[used] = counts[part]
                cells[at] = -(_BASE + _LARGE + used)
                used += 1
            part += 1
        else:
            cells[at] = -_BASE
    return neighbours


@njit(cache=True)
def _close_up(cells: Any, spans: Any) -> int:
    """A cell for each piece, whatever its length, in place; parts that became one piece hold no pair and go. Returns the cells that are left."""
    used, begin, at = 0, 0, 0
    while at < len(cells):
        value = cells[at]
        if value >= 0:
            cells[used] = value
            used += 1
            at += spans[value]
            continue
        if used - begin == 2:  # a divider and one piece behind it
            used = begin
        begin = used
        cells[used] = value
        used += 1
        at += 1
    return used


@njit(cache=True, inline="always")
def _slot_of(keys: Any, key: Any, h: Any, mask: Any) -> Any:
    """The slot that holds a key of hash `h`, or the free one where it would go."""
    slot = np.int64(h & mask)
    while keys[slot] != key and keys[slot] >= 0:
        slot = (slot + 1) & np.int64(mask)
    return slot


@njit(cache=True, nogil=True)
def _count_pairs(cells: Any, large: Any, spans: Any, at: int, stop: int, share: int, shares: int, keys: Any, sums: Any, places: Any) -> int:
    """Weighted counts and numbers of places of all pairs of neighbours, from one divider to another, whose hash falls into the share; how many pairs, or -1 if
    the table is too small."""
    mask = uint64(len(keys) - 1)
    used, weight = 0, np.int64(0)
    while at < stop:
        value = cells[at]
        if value < 0:
            own = -np.int64(value) - _BASE
            weight = own if own < _LARGE else large[own - _LARGE]
            at += 1
            continue
        after = at + spans[value]
        right = cells[after]
        if right >= 0:
            key = (np.int64(value) << 32) | np.int64(right)
            h = _mix(uint64(key))
            if np.int64(h >> uint64(40)) % shares == share:
                slot = _slot_of(keys, key, h, mask)
                if keys[slot] < 0:
                    if 4 * used >= 3 * len(keys):
                        return -1
                    keys[slot] = key
                    used += 1
                sums[slot] += weight
                places[slot] += 1
        at = after
    return used


@njit(cache=True)
def _join_pairs(keys: Any, sums: Any, places: Any, other_keys: Any, other_sums: Any, other_places: Any, used: int) -> int:
    """Add the pairs of another table to a table with `used` of them, places into a column of their own; how many pairs, or -1 if the table is too small."""
    mask = uint64(len(keys) - 1)
    for at in range(len(other_keys)):
        key = other_keys[at]
        if key < 0:
            continue
        slot = _slot_of(keys, key, _mix(uint64(key)), mask)
        if keys[slot] < 0:
            if 4 * used >= 3 * len(keys):
                return -1
            keys[slot] = key
            used += 1
        sums[slot] += other_sums[at]
        places[slot] = other_places[at]
    return used


@njit(cache=True, nogil=True)
def _place_pairs(cells: Any, spans: Any, at: int, stop: int, keys: Any, pairs: Any, ends: Any, arena: Any) -> None:
    """Write the places of the kept pairs from one divider to another, found by their keys, into their slices."""
    mask = uint64(len(keys) - 1)
    while at < stop:
        value = cells[at]
        if value < 0:
            at += 1
            continue
        after = at + spans[value]
        right = cells[after]
        if right >= 0:
            key = (np.int64(value) << 32) | np.int64(right)
            slot = _slot_of(keys, key, _mix(uint64(key)), mask)
            if keys[slot] == key:
                pair = pairs[slot]
                arena[ends[pair]] = at
                ends[pair] += 1
        at = after


@njit(cache=True)
def _enter_pairs(keys: Any, pairs: Any, lefts: Any, rights: Any, used: int) -> None:
    mask = uint64(len(keys) - 1)
    for pair in range(used):
        key = (np.int64(lefts[pair]) << 32) | np.int64(rights[pair])
        slot = np.int64(_mix(uint64(key)) & mask)
        while keys[slot] >= 0:
            slot = (slot + 1) & np.int64(mask)
        keys[slot], pairs[slot] = key, pair


@njit(cache=True, inline="always")
def _letter(texts: Any, lengths: Any, left: int, right: int, i: int) -> Any:
    return texts[left, i] if i < lengths[left] else texts[right, i - lengths[left]]


@njit(cache=True)
def _before(a: int, b: int, lefts: Any, rights: Any, tops: Any, texts: Any, lengths: Any) -> bool:
    """Whether pair a is merged before pair b; `tops` are their counts when they were last moved on the heap, which later counts do not exceed."""
    if tops[a] != tops[b]:
        return bool(tops[a] > tops[b])
    la, ra, lb, rb = lefts[a], rights[a], lefts[b], rights[b]
    size, other = lengths[la] + lengths[ra], lengths[lb] + lengths[rb]
    if size != other:
        return bool(size < other)
    for i in range(size):
        x, y = _letter(texts, lengths, la, ra, i), _letter(texts, lengths, lb, rb, i)
        if x != y:
            return bool(x < y)
    return bool(lengths[la] > lengths[lb])


@njit(cache=True)
def _sift_up(heap: Any, at: int, lefts: Any, rights: Any, tops: Any, texts: Any, lengths: Any) -> None:
    pair = heap[at]
    while at > 0:
        above = (at - 1) >> 1
        if not _before(pair, heap[above], lefts, rights, tops, texts, lengths):
            break
        heap[at] = heap[above]
        at = above
    heap[at] = pair


@njit(cache=True)
def _sift_down(heap: Any, size: int, at: int, lefts: Any, rights: Any, tops: Any, texts: Any, lengths: Any) -> None:
    pair = heap[at]
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and _before(heap[below + 1], heap[below], lefts, rights, tops, texts, lengths):
            below += 1
        if not _before(heap[below], pair, lefts, rights, tops, texts, lengths):
            break
        heap[at] = heap[below]
        at = below
    heap[at] = pair


@njit(cache=True)
def _heapify(heap: Any, size: int, lefts: Any, rights: Any, tops: Any, texts: Any, lengths: Any) -> None:
    for at in range(size // 2 - 1, -1, -1):
        _sift_down(heap, size, at, lefts, rights, tops, texts, lengths)


@njit(cache=True)
def _find(table: Any, texts: Any, lengths: Any, left: int, right: int) -> Any:
    """The slot of the piece that the two make, in the table of pieces: its own, or the free one where it would go."""
    size = lengths[left] + lengths[right]
    h = uint64(size)
    for i in range(size):
        h = _mix(h ^ uint64(_letter(texts, lengths, left, right, i)))
    mask = uint64(len(table) - 1)
    slot = np.int64(h & mask)
    while table[slot] >= 0:
        piece = table[slot]
        if lengths[piece] == size:
            i = 0
            while i < size and texts[piece, i] == _letter(texts, lengths, left, right, i):
                i += 1
            if i == size:
                return slot
        slot = (slot + 1) & np.int64(mask)
    return slot


@njit(cache=True)
def _fits(left: int, right: int, lengths: Any, kinds: Any) -> bool:
    """Whether the two may be one piece: short enough, and of one script."""
    a, b = kinds[left], kinds[right]
    joins = a == b or ANY in (a, b)
    return joins and lengths[left] + lengths[right] <= LONGEST


@njit(cache=True)
def _usable(lefts: Any, rights: Any, lengths: Any, kinds: Any, texts: Any, table: Any, found: Any) -> None:
    """Which pairs may be merged: they fit, and their piece is not there yet."""
    for pair in range(len(lefts)):
        left, right = lefts[pair], rights[pair]
        found[pair] = _fits(left, right, lengths, kinds) and table[_find(table, texts, lengths, left, right)] < 0


@njit(cache=True)
def _fall(keys: Any, numbers: Any, left: int, right: int, by: int, sums: Any) -> None:
    """Take `by` off the count of a pair, if it is kept."""
    mask = uint64(len(keys) - 1)
    key = (np.int64(left) << 32) | np.int64(right)
    slot = np.int64(_mix(uint64(key)) & mask)
    while keys[slot] >= 0:
        if keys[slot] == key:
            sums[numbers[slot]] -= by
            return
        slot = (slot + 1) & np.int64(mask)
