"""N-grams of evaluation text, and which texts hold one of them: decontamination. Case and punctuation do not count; units are those of `shingles`.

evaluation texts -> distinct n-grams, 64 bits each, sorted -> sieve of 16 bits an n-gram -> texts with one of them
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, uint64

from pipeline.text.kernels import _mix, _power
from pipeline.text.shingles import FACTORS, U64, letters, longest_text, units_of


@njit(cache=True)
def _ngrams(data: Any, offsets: Any, words: int, letters: Any) -> Any:
    texts = len(offsets) - 1
    longest = longest_text(offsets)
    prefix = np.empty(longest + 2, np.uint64)
    out = np.empty(offsets[texts] - offsets[0] + texts, np.uint64)
    kinds = np.empty(texts, np.int64)
    used = 0
    for t in range(texts):
        units, kinds[t] = units_of(data, offsets[t], offsets[t + 1], letters, prefix)
        n = words * FACTORS[kinds[t]]
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
    values, kinds = _ngrams(data, offsets, words, letters())
    return np.unique(values), sorted({words * FACTORS[kind] for kind in kinds.tolist()})


@njit(cache=True)
def _shares_ngram(data: Any, offsets: Any, lengths: Any, hashes: Any, letters: Any) -> Any:
    texts = len(offsets) - 1
    longest = longest_text(offsets)
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
        units, _ = units_of(data, offsets[t], offsets[t + 1], letters, prefix)
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
    found: np.ndarray[Any, np.dtype[np.bool_]] = _shares_ngram(data, offsets, np.array(lengths, np.int64), hashes, letters())
    return found
