"""Quantiles of whole numbers from histograms that add up: the same whatever the order in which anything was counted.

    value -> bucket (values below 256 each have one; above, 128 to each power of two: under 0.8% wide) -> counts -> a quantile is the edge of a bucket

The buckets are those of HdrHistogram with 8 significant bits. All is done in whole numbers, the deviation too.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import numpy as np

I64 = np.ndarray[Any, np.dtype[np.int64]]
_SUB = 128


def buckets(values: I64) -> I64:
    """The bucket of each value (0 to 2^52), rising with the value."""
    _, bits = np.frexp(values.astype(np.float64))  # the number of binary digits, exact below 2^53
    shift = np.maximum(bits.astype(np.int64) - 8, 0)
    found: I64 = shift * _SUB + (values >> shift)
    return found


def edges(bucket: int) -> tuple[int, int]:
    """The least and the greatest value of a bucket."""
    shift = max(0, bucket // _SUB - 1)
    low = (bucket - shift * _SUB) << shift
    return low, low + (1 << shift) - 1


class Histogram:
    """Counts by bucket."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, found: I64, counts: I64) -> None:
        """Add counts of buckets."""
        for bucket, count in zip(found.tolist(), counts.tolist(), strict=True):
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self._counts.values())

    def quantile(self, ten_thousandths: int, *, upper: bool) -> int:
        """The edge of the bucket in which the smallest value lies that so many 1/10,000 of all values do not exceed: its greatest value, or its least.

        Raises:
            ValueError: nothing was counted.
        """
        if not self._counts:
            raise ValueError("a histogram of nothing has no quantile")
        wanted = max(1, -(-self.count * ten_thousandths // 10_000))
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return edges(bucket)[1 if upper else 0]
        raise AssertionError("a quantile beyond the last value")

    def deviation(self) -> int:
        """The standard deviation, rounded down, each value taken as the middle of its bucket."""
        total = squares = 0
        for bucket, count in self._counts.items():
            low, high = edges(bucket)
            total += (low + high) * count
            squares += (low + high) ** 2 * count
        count = self.count
        return isqrt(count * squares - total * total) // (2 * count) if count else 0
