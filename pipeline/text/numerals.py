"""The digits of a text as one number, so that two texts can be compared by their numerals without being read again.

    "On 3 May 1,250 came"  ->  digits 3 1 2 5 (0 aside)  ->  nine counts of 7 bits, that of digit d at bit 7 (d - 1)

Decimal digits of any script count as their value; zeros do not, since their number changes with how a sum is written. Order and grouping play no part, so 1,250 and
1.250, 3 May and 3. Mai, १२ and 12 are alike. A digit that stands more than 127 times counts as 127. After OpusFilter's non-zero numerals (Vázquez et al. 2019),
which compares sequences; counts are indifferent to word order, which differs between languages.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from pipeline.text.kernels import _point
from pipeline.text.tables import POINTS

I64 = np.ndarray[Any, np.dtype[np.int64]]
MOST = 127
_BITS = 7


@cache
def _values() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The value of each decimal digit by code point, 0 for all else, uint8, shape (POINTS,)."""
    found = np.zeros(POINTS, np.uint8)
    for point in range(POINTS):
        found[point] = unicodedata.decimal(chr(point), 0)
    return found


@njit(cache=True)
def _count(data: Any, offsets: Any, values: Any) -> Any:
    texts = len(offsets) - 1
    found = np.zeros(texts, np.int64)
    counts = np.zeros(10, np.int64)
    for t in range(texts):
        counts[:] = 0
        at = offsets[t]
        while at < offsets[t + 1]:
            point, size = _point(data, at)
            at += size
            if point < len(values):
                counts[values[point]] += 1
        for digit in range(1, 10):
            found[t] |= min(counts[digit], 127) << (7 * (digit - 1))
    return found


def numerals(data: np.ndarray[Any, np.dtype[np.uint8]], offsets: I64) -> I64:
    """The packed counts of each text of a batch (UTF-8 and where each text begins, as for `Measurer`); int64, shape (texts,)."""
    return np.asarray(_count(data, offsets, _values()), dtype=np.int64)


def unpacked(packed: I64) -> I64:
    """The counts of the digits 1 to 9; int64, shape (texts, 9)."""
    return (packed[:, None] >> (_BITS * np.arange(9))) & MOST


def similarity(one: I64, other: I64) -> tuple[I64, I64]:
    """For packed counts of two texts each: how many digits the one that has more holds, and the share of digits that both hold, in 1/10,000 (10,000 where none has any)."""
    a, b = unpacked(one), unpacked(other)
    both, every = 2 * np.minimum(a, b).sum(axis=1), a.sum(axis=1) + b.sum(axis=1)
    return np.maximum(a.sum(axis=1), b.sum(axis=1)), np.where(every > 0, both * 10_000 // np.maximum(every, 1), 10_000)
