"""Words as ids of a byte-pair vocabulary (Sennrich et al. 2016), compiled: the ids that sentencepiece gives, in a tenth of its time.

    ▁menschen -> ▁ m e n s c h e n -> the neighbours whose joined piece ranks first become one, the leftmost of equals -> … -> ▁mensch en -> ids

A short word keeps its neighbours in an array that is looked through for each merge; a long one (a sentence of a script without spaces) keeps them in a heap, so that
its cost grows with n log n. A character that is no piece is never joined and comes as its UTF-8 bytes.

Legend: W words, K ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, uint64

from pipeline.text.alphabet import POINTS
from pipeline.text.kernels import _mix, _point

if TYPE_CHECKING:
    from pipeline.text.tokenizer import Tokenizer

I64 = np.ndarray[Any, np.dtype[np.int64]]
U8 = np.ndarray[Any, np.dtype[np.uint8]]

_SHORT = 48
"""Most symbols of a word that is looked through."""
_GONE = np.iinfo(np.int64).min


class WordEncoder:
    """The tables of one vocabulary; `of` says whether it is of the kind that they describe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        pieces, scores = tokenizer.pieces(), tokenizer.scores()
        self.dtype = tokenizer.dtype
        ids = {pieces[index]: index for index in range(tokenizer.mask_id) if tokenizer.is_ordinary(index)}
        self._points = np.full(POINTS, -1, np.int32)
        made: list[tuple[int, int, int]] = []
        for piece, index in ids.items():
            if len(piece) == 1:
                self._points[ord(piece)] = index
            for cut in range(1, len(piece)):
                left, right = ids.get(piece[:cut], -1), ids.get(piece[cut:], -1)
                if left >= 0 and right >= 0:
                    made.append((left, right, index))
        # Equal scores are of equal rank: then the place decides.
        self._ranks = np.unique(-np.array(scores, np.float64), return_inverse=True)[1].astype(np.int64)
        lefts, rights, joined = np.array(made, np.int64).reshape(-1, 3).T
        slots = 1 << (2 * len(joined) + 2).bit_length()
        self._keys, self._joined = np.full(slots, -1, np.int64), np.zeros(slots, np.int32)
        _enter(self._keys, self._joined, (lefts << 32) | rights, joined.astype(np.int32))
        self._bytes = np.array([tokenizer.id_of(f"<0x{byte:02X}>") for byte in range(256)], np.int32)

    @staticmethod
    def of(tokenizer: Tokenizer) -> WordEncoder | None:
        """The encoder of a vocabulary whose ids can be found so; None for others.

        It must be a plain BPE with bytes to fall back on, and every character of a piece must be a piece.
        """
        if not tokenizer.parts_at_spaces or len(tokenizer.byte_ids) != 256:
            return None
        ordinary = [piece for index, piece in enumerate(tokenizer.pieces()[:-1]) if tokenizer.is_ordinary(index)]
        letters = {piece for piece in ordinary if len(piece) == 1}
        return WordEncoder(tokenizer) if all(letters.issuperset(piece) for piece in ordinary) else None

    def encode(self, data: U8, offsets_W1: I64, first: str = "") -> tuple[np.ndarray[Any, np.dtype[Any]], I64]:
        """All ids [K] one behind the other, and how many each word has [W].

        Args:
            data: UTF-8 of the words.
            offsets_W1: where each begins, and where the last ends.
            first: a character that stands before each word, such as the mark of its begin.
        """
        before = int(self._points[ord(first)]) if first else -1
        sizes = np.diff(offsets_W1)
        longest = int(sizes.max(initial=0)) + 1
        ids = np.empty(int(sizes.sum()) + len(sizes) * 3, self.dtype)
        lengths_W = np.empty(len(sizes), np.int64)
        state = (np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(longest, np.int32), np.empty(longest, np.int32))
        heap = np.empty(3 * longest + 1, np.int64)
        used = _encode(
            data, offsets_W1, before, self._points, self._keys, self._joined, self._ranks, self._bytes, *state, heap, ids, lengths_W
        )
        return ids[:used].copy(), lengths_W


@njit(cache=True)
def _enter(keys: Any, joined: Any, new: Any, ids: Any) -> None:
    mask = uint64(len(keys) - 1)
    for number in range(len(new)):
        slot = np.int64(_mix(uint64(new[number])) & mask)
        while keys[slot] >= 0:
            slot = (slot + 1) & np.int64(mask)
        keys[slot], joined[slot] = new[number], ids[number]


@njit(cache=True, inline="always")
def _pair(keys: Any, joined: Any, left: int, right: int) -> Any:
    """The piece that two make, or -1."""
    if left < 0 or right < 0:
        return np.int64(-1)
    mask = uint64(len(keys) - 1)
    key = (np.int64(left) << 32) | np.int64(right)
    slot = np.int64(_mix(uint64(key)) & mask)
    while keys[slot] >= 0:
        if keys[slot] == key:
            return np.int64(joined[slot])
        slot = (slot + 1) & np.int64(mask)
    return np.int64(-1)


@njit(cache=True)
def _look_through(symbols: Any, pairs: Any, count: int, keys: Any, joined: Any, ranks: Any) -> int:
    """Merge a short word in place; the number of symbols that are left."""
    for i in range(count - 1):
        pairs[i] = _pair(keys, joined, symbols[i], symbols[i + 1])
    while True:
        best, rank = -1, np.int64(0)
        for i in range(count - 1):
            if pairs[i] >= 0 and (best < 0 or ranks[pairs[i]] < rank):
                best, rank = i, ranks[pairs[i]]
        if best < 0:
            return count
        symbols[best] = pairs[best]
        for i in range(best + 1, count - 1):
            symbols[i], pairs[i] = symbols[i + 1], pairs[i + 1]
        count -= 1
        if best > 0:
            pairs[best - 1] = _pair(keys, joined, symbols[best - 1], symbols[best])
        if best < count - 1:
            pairs[best] = _pair(keys, joined, symbols[best], symbols[best + 1])


@njit(cache=True)
def _push(heap: Any, size: int, key: int) -> int:
    at = size
    while at > 0 and heap[(at - 1) >> 1] > key:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = key
    return size + 1


@njit(cache=True)
def _pop(heap: Any, size: int) -> int:
    """Take the least key off; it is returned, and the heap has one less."""
    least, key, at = heap[0], heap[size - 1], 0
    size -= 1
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and heap[below + 1] < heap[below]:
            below += 1
        if heap[below] >= key:
            break
        heap[at] = heap[below]
        at = below
    heap[at] = key
    return least


@njit(cache=True)
def _by_heap(symbols: Any, pairs: Any, nexts: Any, befores: Any, count: int, keys: Any, joined: Any, ranks: Any, heap: Any) -> int:
    """Merge a long word in place; the number of symbols that are left, closed up."""
    waiting = 0
    for i in range(count):
        nexts[i], befores[i] = i + 1, i - 1
        pairs[i] = _pair(keys, joined, symbols[i], symbols[i + 1]) if i + 1 < count else -1
        if pairs[i] >= 0:
            waiting = _push(heap, waiting, (ranks[pairs[i]] << 32) | i)
    while waiting:
        key = _pop(heap, waiting)
        waiting -= 1
        at = key & 0xFFFFFFFF
        if symbols[at] == _GONE or pairs[at] < 0 or ranks[pairs[at]] != key >> 32:
            continue
        gone = nexts[at]
        symbols[at], symbols[gone] = pairs[at], _GONE
        nexts[at] = nexts[gone]
        if nexts[at] < count:
            befores[nexts[at]] = at
        for place in (np.int64(befores[at]), np.int64(at)):
            if place >= 0:
                pairs[place] = _pair(keys, joined, symbols[place], symbols[nexts[place]]) if nexts[place] < count else -1
                if pairs[place] >= 0:
                    waiting = _push(heap, waiting, (ranks[pairs[place]] << 32) | place)
    left, at = 0, 0
    while at < count:
        symbols[left] = symbols[at]
        left += 1
        at = nexts[at]
    return left


@njit(cache=True)
def _encode(
    data: Any, offsets: Any, before: int, points: Any, keys: Any, joined: Any, ranks: Any, byte_ids: Any, symbols: Any, pairs: Any, nexts: Any, befores: Any,
    heap: Any, ids: Any, lengths: Any,
) -> int:  # fmt: skip
    """Fill in the ids of all words; how many there are. A symbol is an id, or -1 less the place of a character that is none."""
    used = 0
    for w in range(len(offsets) - 1):
        count: Any = 0
        at, begin = offsets[w], used
        if before >= 0:
            symbols[0] = before
            count = 1
        while at < offsets[w + 1]:
            point, size = _point(data, at)
            symbols[count] = points[point] if points[point] >= 0 else -1 - at
            count += 1
            at += size
        if count <= _SHORT:
            count = _look_through(symbols, pairs, count, keys, joined, ranks)
        else:
            count = _by_heap(symbols, pairs, nexts, befores, count, keys, joined, ranks, heap)
        for i in range(count):
            if symbols[i] >= 0:
                ids[used] = symbols[i]
                used += 1
                continue
            place = -1 - symbols[i]
            _, size = _point(data, place)
            for b in range(size):
                ids[used] = byte_ids[data[place + b]]
                used += 1
        lengths[w] = used - begin
    return used
