"""The single characters of a vocabulary: counted, chosen by coverage, and which of them may stand in one piece.

    words and their counts -> count of each code point -> required ones first, then the most frequent until the share is covered

The choice is sentencepiece's (0.2.3): of equal counts the lower code point first, and the share in single precision, whose division is correctly rounded and so
the same everywhere. What may stand in one piece is its rule too: letters of one script only, Han, Hiragana and Katakana counting as one; a combining
mark joins any script. `scripts.tsv` holds the scripts of Unicode as sentencepiece knows them (newer characters count as Common).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numba import njit

from pipeline.text.kernels import _point

POINTS = 0x110000
ANY, COMMON = 255, 0
"""Script classes: of a character that joins any script, and of one that has none of its own (which joins its like only)."""
WORD_BEGIN = 0x2581

I64 = np.ndarray[Any, np.dtype[np.int64]]
U8 = np.ndarray[Any, np.dtype[np.uint8]]


@cache
def scripts() -> U8:
    """The script class of each code point, uint8, shape (0x110000,)."""
    found = np.zeros(POINTS, np.uint8)
    numbers: dict[str, int] = {"Common": COMMON, "Inherited": ANY}
    text = resources.files("pipeline.text").joinpath("scripts.tsv").read_text(encoding="ascii")
    for line in text.splitlines():
        first, last, name = line.split("\t")
        found[int(first, 16) : int(last, 16) + 1] = numbers.setdefault(name, len(numbers) - 1)
    found[WORD_BEGIN] = ANY
    return found


@njit(cache=True, nogil=True)
def _add_points(data: Any, offsets: Any, counts: Any, sums: Any) -> None:
    for w in range(len(offsets) - 1):
        at, count = offsets[w], counts[w]
        while at < offsets[w + 1]:
            point, size = _point(data, at)
            sums[point] += count
            at += size


def add_points(data: Any, offsets: I64, counts: I64, sums: I64) -> None:
    """Add the counts of words (UTF-8 and where each begins) to those of their code points, int64, shape (0x110000,)."""
    _add_points(data, offsets, counts, sums)


@njit(cache=True, nogil=True)
def _add_points_by(data: Any, offsets: Any, counts: Any, codes: Any, numbers: Any, sums: Any) -> None:
    for w in range(len(offsets) - 1):
        at, count, code = offsets[w], counts[w], codes[w]
        while at < offsets[w + 1]:
            point, size = _point(data, at)
            sums[code, numbers[point]] += count
            at += size


class PointsByLanguage:
    """Counts of code points by language: a column for each point that was met, whatever its number."""

    def __init__(self) -> None:
        self.langs: dict[str, int] = {}
        self.points = np.zeros(0, np.int64)
        self._numbers = np.full(POINTS, -1, np.int32)
        self._sums = np.zeros((0, 0), np.int64)

    def add(self, data: Any, offsets: I64, counts: I64, langs: Sequence[str], codes: Any) -> None:
        """Add words (UTF-8 and where each begins) with their counts; `codes` are their languages among `langs`."""
        met = np.zeros(POINTS, np.int64)
        _add_points(data, offsets, np.ones(len(counts), np.int64), met)
        fresh = np.flatnonzero((met > 0) & (self._numbers < 0))
        self._numbers[fresh] = np.arange(len(self.points), len(self.points) + len(fresh))
        self.points = np.concatenate([self.points, fresh])
        row_of = np.array([self.langs.setdefault(lang, len(self.langs)) for lang in langs], np.int64)
        sums = np.zeros((len(self.langs), len(self.points)), np.int64)
        sums[: self._sums.shape[0], : self._sums.shape[1]] = self._sums
        self._sums = sums
        if len(counts):
            _add_points_by(data, offsets, counts, row_of[codes], self._numbers, self._sums)

    def of(self, lang: str) -> tuple[I64, I64]:
        """The points of a language, rising, and their counts."""
        own = self._sums[self.langs[lang]]
        met = np.flatnonzero(own)
        order = met[np.argsort(self.points[met])]
        return self.points[order], own[order]


def chosen(sums: I64, required: Iterable[str], coverage: float) -> list[int]:
    """Code points that get a piece of their own, the most frequent first: all that are required, and of the others as many as cover the share."""
    wanted = {ord(character) for character in required}
    points = sorted({*np.flatnonzero(sums).tolist(), *wanted} - {0}, key=lambda point: (point not in wanted, -int(sums[point]), point))
    total, covered, taken = int(sums.sum()), 0, []
    for point in points:
        if np.float32(covered / total) >= np.float32(coverage):
            break
        covered += int(sums[point])
        taken.append(point)
    return sorted(taken, key=lambda point: (-int(sums[point]), point))
