"""MinHash signatures and true Jaccard similarity of texts, for near-duplicates (Broder 1997; the 14 bands of 8 rows are datatrove's).

    text -> shingles (`shingles`) -> 112 minima -> 14 band hashes                                                           (`band_hashes`)
    two texts that share a band hash are candidates -> |A ∩ B| / |A ∪ B| over their distinct shingles, in 1/10,000         (`jaccard`)
    pairs that are alike -> components                                                                                      (`unite`, `components`)

A text without a shingle is no one's near-duplicate. At similarity s a pair becomes a candidate with probability 1 − (1 − s^8)^14: .56 at .70, .77 at .75, .92 at
.80, .99 at .85.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numba import njit, uint64

from pipeline.text.kernels import _mix
from pipeline.text.shingles import U64, letters, longest_text, shingles_of

BANDS, ROWS = 14, 8

_BASE = np.uint64(0x9E3779B97F4A7C15)


@cache
def multipliers() -> tuple[U64, U64]:
    """The 112 odd multipliers and the addends of the hash functions h(x) = (a·x + b) mod 2^64 >> 32 (multiply-shift, Dietzfelbinger et al. 1997)."""
    stream = b"".join(blake2b(number.to_bytes(4, "big"), digest_size=16, key=b"minhash").digest() for number in range(BANDS * ROWS))
    drawn = np.frombuffer(stream, ">u8").astype(np.uint64).reshape(-1, 2)
    return np.ascontiguousarray(drawn[:, 0] | np.uint64(1)), np.ascontiguousarray(drawn[:, 1])


@njit(cache=True)
def _band_hashes(data: Any, offsets: Any, letters: Any, a: Any, b: Any) -> Any:
    texts = len(offsets) - 1
    longest = longest_text(offsets)
    prefix = np.empty(longest + 2, np.uint64)
    found = np.empty(longest + 2, np.uint64)
    minima = np.empty(len(a), np.uint64)
    out = np.zeros((texts, BANDS), np.uint64)
    counts = np.zeros(texts, np.int64)
    for t in range(texts):
        count = shingles_of(data, offsets[t], offsets[t + 1], letters, prefix, found)
        counts[t] = count
        if count == 0:
            continue
        # The upper half of the smallest h is the smallest upper half. Hash by hash, the shingles of a text stay in the processor's first cache.
        for j in range(len(a)):
            factor, addend, least = a[j], b[j], uint64(0xFFFFFFFFFFFFFFFF)
            for i in range(count):
                least = min(least, factor * found[i] + addend)
            minima[j] = least >> uint64(32)
        for band in range(BANDS):
            mixed = uint64(band + 1)
            for j in range(band * ROWS, (band + 1) * ROWS):
                mixed = _mix(mixed * uint64(_BASE) + minima[j])
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
    bands, counts = _band_hashes(data, offsets, letters(), a, b)
    return bands, counts


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
def unite(root: Any, a: Any, b: Any) -> None:
    """Union-find: join the trees of `a[i]` and `b[i]` for each i; `root` begins as `arange` and may be given edges in several calls.

    Args:
        root: a node of smaller or equal number in the same component for each node, any integer type, shape (nodes,); changed.
        a, b: two ends of each edge, int64, shape (edges,).
    """
    for e in range(len(a)):
        i, j = np.int64(a[e]), np.int64(b[e])
        while root[i] != i:
            root[i] = root[root[i]]
            i = np.int64(root[i])
        while root[j] != j:
            root[j] = root[root[j]]
            j = np.int64(root[j])
        if i < j:
            root[j] = i
        elif j < i:
            root[i] = j


@njit(cache=True)
def name_roots(root: Any) -> None:
    """After `unite`: the smallest node of its component for each node, in place."""
    for n in range(len(root)):
        root[n] = root[root[n]]  # that of a smaller node is final


def components(nodes: int, edges: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The smallest node of each node's component, int64, shape (nodes,); edges are pairs of nodes, int64, shape (edges, 2)."""
    root = np.arange(nodes)
    unite(root, edges[:, 0], edges[:, 1])
    name_roots(root)
    return root
