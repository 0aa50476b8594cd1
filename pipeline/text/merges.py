"""The merges of a byte-pair vocabulary (Sennrich et al. 2016), the same that sentencepiece 0.2.3 finds, in a fraction of its memory.

    cells of `fragments`, weights -> pairs of neighbours with their positions -> the most frequent pair becomes one piece, everywhere -> … -> pieces, in order

At each step the pair with the largest weighted count of neighbours is merged; of equal counts the one with the shorter piece, then the piece that comes first
by code points, then the one with the longer left part (sentencepiece leaves that last case to chance). A piece that was made before, from other parts, is not
made again. No piece is longer than 16 characters.

Why it is small and fast: all places of a pair come up at once, when the younger of its parts is made, so they are one slice, written once; later its count only
falls, by sums over all places of a merge. Places that are none any more are passed over when the pair's turn comes. Pairs below a least count are not kept: the
most frequent come first, as many as there is room for; then what is left of the text closes up (a cell for each piece, and parts that became one piece go), all
neighbours are counted anew, and the next come. That gives the same pieces in the same order.

A cell holds a piece's number at the piece's first place, minus its span (cells) at its last, and -1 between; below -LONGEST it is a divider and tells the weight of the
part behind it. Memory: 6 bytes a cell, and about 60 a kept pair.

Legend: S pieces, P kept pairs, N cells.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit, uint64

from pipeline.text.alphabet import ANY, scripts
from pipeline.text.fragments import I32, I64, Fragments
from pipeline.text.kernels import _mix
from pipeline.text.merge_kernels import (
    _BASE,
    _LARGE,
    LONGEST,
    _close_up,
    _count_pairs,
    _enter_pairs,
    _fall,
    _find,
    _fits,
    _heapify,
    _join_pairs,
    _letter,
    _place_pairs,
    _sift_down,
    _sift_up,
    _spread,
    _usable,
    _weight,
)

_PLACES = 1 << 22
"""Places of pairs that may be kept at a time, however few cells there are."""
_NUMBERS = 1.5
"""Else cells and places may together be so many times the cells there were at first."""
_PER_MERGE = 64
"""Pairs below all neighbours over so many times the merges are not even listed, as long as the others suffice."""
_LOWER = 16
"""How much lower that bound gets when they do not."""
_SLOTS = 1 << 21
_DONE, _NO_PAIRS, _NO_COLUMNS, _NO_ARENA = 0, 1, 2, 3


@njit(cache=True)
def _merge(
    cells: Any,
    large: Any,
    texts: Any,
    lengths: Any,
    spans: Any,
    kinds: Any,
    table: Any,
    state: Any,
    least: int,
    most: int,
    lefts: Any,
    rights: Any,
    sums: Any,
    tops: Any,
    begins: Any,
    places: Any,
    arena: Any,
    heap: Any,
    keys: Any,
    numbers: Any,
    near: Any,
    near_places: Any,
    touched: Any,
    around: Any,
) -> int:
    """Merge on from `state` (pieces, pairs, cells of the arena in use, pairs on the heap) until there are `most` pieces, or pairs or room run out."""
    pieces, pairs, used, waiting = state[0], state[1], state[2], state[3]
    status, slot = _DONE, np.int64(0)
    mask = uint64(len(keys) - 1)
    while pieces < most:
        if waiting == 0:
            status = _NO_PAIRS
            break
        best = heap[0]
        left, right = lefts[best], rights[best]
        slot = _find(table, texts, lengths, left, right)
        if sums[best] < tops[best] or table[slot] >= 0:
            tops[best] = sums[best]
            if sums[best] < least or table[slot] >= 0:
                waiting -= 1
                heap[0] = heap[waiting]
            if waiting:
                _sift_down(heap, waiting, 0, lefts, rights, tops, texts, lengths)
            continue
        # Either side of a place makes at most one new pair.
        if pairs + 2 * places[best] > len(lefts) and pairs + 2 * pieces > len(lefts):
            status = _NO_COLUMNS
            break
        if used + 2 * places[best] > len(arena):
            status = _NO_ARENA
            break
        piece, size, first = pieces, spans[left] + spans[right], spans[left]
        lengths[piece], spans[piece] = lengths[left] + lengths[right], size
        for i in range(lengths[piece]):
            texts[piece, i] = _letter(texts, lengths, left, right, i)
        kinds[piece] = kinds[left] if kinds[left] != ANY else kinds[right]
        table[slot] = piece
        pieces += 1
        waiting -= 1
        heap[0] = heap[waiting]
        if waiting:
            _sift_down(heap, waiting, 0, lefts, rights, tops, texts, lengths)
        # Weights and places of the new neighbours: pieces before in column 0, pieces behind in column 1; of the piece and itself in column 1 alone
        # (a number of places is one too high, so that 0 means untouched). Each place is
        # touched once: what stands around it is remembered for the slices, since cells are far from each other and memory is what this waits for.
        kept, found = 0, 0
        for i in range(begins[best], begins[best] + places[best]):
            at = arena[i]
            if cells[at] != left or cells[at + first] != right:  # merged since; aaa holds aa twice, but gives one
                continue
            cells[at + first] = -1
            cells[at] = piece
            cells[at + size - 1] = -size
            weight = _weight(cells, large, at)
            value = cells[at - 1]
            other = -1 if value <= -_BASE else (cells[at + value] if value < 0 else value)
            if other == piece:  # the place before; it took what is merged now for its neighbour
                around[kept - 1, 2] = piece
                near[left, 1] -= weight
                near_places[left, 1] -= 1
                if near_places[piece, 1] == 0:
                    touched[found], near_places[piece, 1] = 2 * piece + 1, 1
                    found += 1
                near[piece, 1] += weight
                near_places[piece, 1] += 1
                other = -1
            elif other >= 0:
                if near_places[other, 0] == 0:
                    touched[found], near_places[other, 0] = 2 * other, 1
                    found += 1
                near[other, 0] += weight
                near_places[other, 0] += 1
            behind = np.int64(cells[at + size])
            if behind >= 0:
                if near_places[behind, 1] == 0:
                    touched[found], near_places[behind, 1] = 2 * behind + 1, 1
                    found += 1
                near[behind, 1] += weight
                near_places[behind, 1] += 1
            around[kept, 0], around[kept, 1], around[kept, 2] = at, other, behind
            kept += 1
        any_kept = False
        for t in range(found):
            other, side = touched[t] >> 1, touched[t] & 1
            weight = near[other, side]
            near[other, side] = -1
            if weight == 0:
                continue
            if side == 0:
                a, b = other, piece
                _fall(keys, numbers, other, left, weight, sums)
            else:
                a, b = piece, other
                _fall(keys, numbers, right, left if other == piece else other, weight, sums)
            if weight >= least and _fits(a, b, lengths, kinds) and table[_find(table, texts, lengths, a, b)] < 0:
                lefts[pairs], rights[pairs], sums[pairs], tops[pairs], begins[pairs], places[pairs] = a, b, weight, weight, used, 0
                used += near_places[other, side] - 1
                key = (np.int64(a) << 32) | np.int64(b)
                slot = np.int64(_mix(uint64(key)) & mask)
                while keys[slot] >= 0:
                    slot = (slot + 1) & np.int64(mask)
                keys[slot], numbers[slot] = key, pairs
                heap[waiting] = pairs
                _sift_up(heap, waiting, lefts, rights, tops, texts, lengths)
                waiting += 1
                near[other, side] = pairs
                pairs += 1
                any_kept = True
        for i in range(kept if any_kept else 0):
            at, other, behind = around[i, 0], around[i, 1], around[i, 2]
            if other >= 0 and near[other, 0] >= 0:
                pair = near[other, 0]
                arena[begins[pair] + places[pair]] = at - spans[other]
                places[pair] += 1
            if behind >= 0 and near[behind, 1] >= 0:
                pair = near[behind, 1]
                arena[begins[pair] + places[pair]] = at
                places[pair] += 1
        for t in range(found):
            other, side = touched[t] >> 1, touched[t] & 1
            near[other, side], near_places[other, side] = 0, 0
    state[0], state[1], state[2], state[3] = pieces, pairs, used, waiting
    return status


@njit(cache=True)
def _tidy(
    cells: Any, texts: Any, lengths: Any, spans: Any, table: Any, least: int, state: Any, lefts: Any, rights: Any, sums: Any, tops: Any, begins: Any, places: Any,
    arena: Any, heap: Any,
) -> None:  # fmt: skip
    """Pairs that are none any more go, as do their places; the slices of the others close up."""
    pairs, used = 0, 0
    for pair in range(state[1]):
        left, right, total = lefts[pair], rights[pair], sums[pair]
        if total < least or table[_find(table, texts, lengths, left, right)] >= 0:
            continue
        first, begin = spans[left], used
        for i in range(begins[pair], begins[pair] + places[pair]):
            at = arena[i]
            if cells[at] == left and cells[at + first] == right:
                arena[used] = at
                used += 1
        lefts[pairs], rights[pairs], sums[pairs], tops[pairs], begins[pairs], places[pairs] = left, right, total, total, begin, used - begin
        heap[pairs] = pairs
        pairs += 1
    _heapify(heap, pairs, lefts, rights, tops, texts, lengths)
    state[1], state[2], state[3] = pairs, used, pairs


def merged_pieces(fragments: Fragments, alphabet: list[int], merges: int, threads: int = 1) -> list[str]:
    """The pieces of the first `merges` merges, in order, the same for any number of threads; fewer where no pair of neighbours is left.

    fragments: parts with weights of at least 1; they are taken out of it. alphabet: all code points that stand in them.
    """
    with ThreadPoolExecutor(threads) as pool:
        merging = _Merging(*fragments.taken(), alphabet, merges, pool, threads)  # which does not hold on to the counts
        return merging.run()


class _Merging:
    """The arrays of one run; compiled code works on them and comes back where one is too small."""

    def __init__(self, cells: I32, counts: I64, alphabet: list[int], merges: int, pool: ThreadPoolExecutor, threads: int) -> None:
        most = len(alphabet) + merges
        self.pool, self.threads = pool, threads
        self.cells, self.first, self.most = cells, len(alphabet), most
        self.texts, self.lengths, self.kinds = np.zeros((most, LONGEST), np.int32), np.ones(most, np.int64), np.zeros(most, np.uint8)
        self.spans = np.ones(most, np.int64)
        self.texts[: len(alphabet), 0] = alphabet
        self.kinds[: len(alphabet)] = scripts()[alphabet]
        numbers = np.full(0x110000, -1, np.int32)
        numbers[alphabet] = np.arange(len(alphabet))
        self.large = np.zeros(max(1, int((counts >= _LARGE).sum())), np.int64)
        neighbours = int(_spread(cells, counts, numbers, self.large))
        self.table = np.full(1 << (4 * most).bit_length(), -1, np.int32)  # of merged pieces, by their text
        self.near, self.near_places = np.zeros((most, 2), np.int64), np.zeros((most, 2), np.int64)
        self.touched = np.zeros(2 * most, np.int64)
        self.state = np.array([len(alphabet), 0, 0, 0], np.int64)
        self.most_numbers = int(len(cells) * _NUMBERS)
        self.shares = 1
        self.listed = max(1, neighbours // (_PER_MERGE * max(1, merges)))
        self.least = 0  # as yet no pair was looked at

    def run(self) -> list[str]:
        self._find_pairs()
        while True:
            status = _merge(
                self.cells, self.large, self.texts, self.lengths, self.spans, self.kinds, self.table, self.state, self.least, self.most, self.lefts, self.rights,
                self.sums, self.tops, self.begins, self.places, self.arena, self.heap, self.keys, self.numbers, self.near, self.near_places, self.touched, self.around,
            )  # fmt: skip
            if status == _NO_COLUMNS:
                self._more_columns()
            elif status == _NO_ARENA:
                self._more_arena()
            elif status == _NO_PAIRS and self.least > 1:
                if self.least <= self.listed:
                    self.listed = max(1, self.listed // _LOWER)
                self._find_pairs()
            else:
                break
        made = range(self.first, int(self.state[0]))
        return ["".join(map(chr, self.texts[piece, : self.lengths[piece]].tolist())) for piece in made]

    def _find_pairs(self) -> None:
        """Close up the cells, count all neighbours, keep the most frequent pairs with their places: as many as there is room for."""
        self.lefts = self.rights = self.sums = self.tops = self.begins = self.places = self.arena = self.heap = np.zeros(0, np.int64)
        if self.least:
            self.cells.resize(int(_close_up(self.cells, self.spans)), refcheck=False)
            self.spans[:] = 1
        bounds = self._bounds()
        found = self._counted(bounds)
        while found is None:
            self.shares *= 2  # too many different ones for the tables: in more passes
            found = self._counted(bounds)
        keys, sums, places_TP = found
        usable = np.zeros(len(keys), np.bool_)
        _usable(keys >> 32, keys & 0xFFFFFFFF, self.lengths, self.kinds, self.texts, self.table, usable)
        keys, sums, places_TP = keys[usable], sums[usable], places_TP[:, usable]
        places = places_TP.sum(axis=0)
        order = np.argsort(-sums, kind="stable")
        fitting = int(np.searchsorted(np.cumsum(places[order]), max(_PLACES, self.most_numbers - len(self.cells)), side="right"))
        # All of one count or none, but the first in any case.
        self.least = self.listed if fitting == len(order) else int(min(sums[order[fitting]] + 1, sums[order[0]]))
        chosen = np.flatnonzero(sums >= self.least)
        keys, sums, places, places_TP = keys[chosen], sums[chosen], places[chosen], places_TP[:, chosen]
        pairs, room = len(keys), 2 * len(keys) + 2 * self.first + 4096
        self.lefts, self.rights = (_held(column, room, np.int32) for column in (keys >> 32, keys & 0xFFFFFFFF))
        ends = np.cumsum(places)
        used = int(ends[-1]) if pairs else 0
        self.sums, self.tops = _held(sums, room, np.int64), _held(sums, room, np.int64)
        self.begins, self.places = _held(ends - places, room, np.int64), _held(places, room, np.int32)
        self.heap = _held(np.arange(pairs), room, np.int32)
        self.arena = np.empty(used * 3 // 2 + 4096, np.int32)
        self.around = np.empty((int(places.max(initial=1)), 3), np.int32)
        self._enter(pairs)
        ends_TP = self.begins[:pairs] + np.cumsum(places_TP, axis=0) - places_TP  # of each pair, behind the places of the threads before

        def place(thread: int) -> None:
            _place_pairs(self.cells, self.spans, bounds[thread], bounds[thread + 1], self.keys, self.numbers, ends_TP[thread], self.arena)

        list(self.pool.map(place, range(self.threads)))
        _heapify(self.heap, pairs, self.lefts, self.rights, self.tops, self.texts, self.lengths)
        self.state[1:] = pairs, used, pairs

    def _bounds(self) -> list[int]:
        """The dividers at which the cells are parted between the threads, and the last one."""
        bounds = [0]
        for thread in range(1, self.threads):
            at = max(bounds[-1], len(self.cells) * thread // self.threads)
            while self.cells[at] > -_BASE:
                at += 1
            bounds.append(at)
        return [*bounds, len(self.cells) - 1]

    def _counted(self, bounds: list[int]) -> tuple[I64, I64, I64] | None:
        """Pairs with a weighted count from `listed` on, these counts, and places by thread [T, P]; None where a table is too small."""
        kept = []
        for share in range(self.shares):

            def count(thread: int, share: int = share) -> tuple[int, I64, I64, I32]:
                keys, sums, places = np.full(_SLOTS, -1, np.int64), np.zeros(_SLOTS, np.int64), np.zeros(_SLOTS, np.int32)
                start, stop = bounds[thread], bounds[thread + 1]
                used = _count_pairs(self.cells, self.large, self.spans, start, stop, share, self.shares, keys, sums, places)
                return int(used), keys, sums, places

            (used, keys, sums, places), *others = self.pool.map(count, range(self.threads))
            places_TS = np.zeros((self.threads, _SLOTS), np.int32)
            places_TS[0] = places
            for thread, (their_used, their_keys, their_sums, their_places) in enumerate(others, start=1):
                used = (
                    int(_join_pairs(keys, sums, places_TS[thread], their_keys, their_sums, their_places, used))
                    if min(used, their_used) >= 0
                    else -1
                )
            if used < 0:
                return None
            enough = np.flatnonzero((keys >= 0) & (sums >= self.listed))
            kept.append((keys[enough], sums[enough], places_TS[:, enough].astype(np.int64)))
        return (
            np.concatenate([k for k, _, _ in kept]),
            np.concatenate([n for _, n, _ in kept]),
            np.concatenate([p for _, _, p in kept], axis=1),
        )

    def _enter(self, pairs: int) -> None:
        """A table that finds a pair by its parts, with room for as many as the columns have."""
        slots = 1 << (2 * len(self.lefts)).bit_length()
        self.keys, self.numbers = np.full(slots, -1, np.int64), np.zeros(slots, np.int32)
        _enter_pairs(self.keys, self.numbers, self.lefts, self.rights, pairs)

    def _more_columns(self) -> None:
        pairs = int(self.state[1])
        for column in (self.lefts, self.rights, self.sums, self.tops, self.begins, self.places, self.heap):
            column.resize(2 * pairs + 2 * int(self.state[0]), refcheck=False)
        self._enter(pairs)

    def _more_arena(self) -> None:
        _tidy(
            self.cells, self.texts, self.lengths, self.spans, self.table, self.least, self.state, self.lefts, self.rights, self.sums, self.tops, self.begins,
            self.places, self.arena, self.heap,
        )  # fmt: skip
        pairs, used, waiting = (int(value) for value in self.state[1:])
        needed = used * 9 // 8 + 2 * int(self.places[self.heap[0]] if waiting else 0)
        if needed > len(self.arena):
            self.arena.resize(needed, refcheck=False)
        self._enter(pairs)


def _held(values: Any, room: int, dtype: Any) -> Any:
    column = np.zeros(room, dtype)
    column[: len(values)] = values
    return column
