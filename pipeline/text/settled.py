"""Which texts of a batch a rule would leave as they are, found by compiled scans, so that only the others go through Python one by one.

    data (all texts, UTF-8), offsets -> bool, shape (texts,): True is certain, False means that the rule itself must look

`normalised` mirrors `normalise`, its last step by the quick check of Unicode TR15: combining classes in order, and no character that canonical composition could touch.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from pipeline.text.kernels import _point
from pipeline.text.normalise import changed_characters
from pipeline.text.tables import MARK, POINTS, classes

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Offsets = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_UNSETTLED = 255
"""Marks a character that is never certain; combining classes end at 240."""


@cache
def combining_classes() -> Bytes:
    """Canonical combining class of each code point, uint8, shape (POINTS,); 255 where `normalise` may change the character whatever stands around it."""
    found = np.zeros(POINTS, np.uint8)
    for point in np.flatnonzero(classes() & MARK).tolist():
        found[point] = unicodedata.combining(chr(point))
    composing = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # the vowels and finals of Hangul compose by arithmetic
    for point in range(POINTS):
        written = unicodedata.decomposition(chr(point))
        if written and written[0] != "<":
            composing.update(int(part, 16) for part in written.split(" ")[1:])
            if not unicodedata.is_normalized("NFC", chr(point)):
                found[point] = _UNSETTLED
    found[sorted(composing)] = _UNSETTLED
    found[changed_characters()] = _UNSETTLED
    return found


@njit(cache=True)
def _normalised(data: Any, offsets: Any, classes_of: Any) -> Any:
    texts = len(offsets) - 1
    out = np.ones(texts, np.bool_)
    for t in range(texts):
        at, end = offsets[t], offsets[t + 1]
        if at == end:
            continue
        before, before_that, order = np.int64(10), np.int64(10), 0  # the text's edges count as line ends, and as those of an empty line
        while at < end:
            first = data[at]
            if first < 0x80:
                point, size = np.int64(first), 1
                if point == 32 or point == 10:
                    if before == 32 or (before == 10 and (point == 32 or before_that == 10)):
                        out[t] = False
                        break
                elif classes_of[point]:
                    out[t] = False
                    break
                order = 0
            else:
                point, size = _point(data, at)
                now = classes_of[point] if point < POINTS else _UNSETTLED
                if now == _UNSETTLED or (now and now < order):
                    out[t] = False
                    break
                order = now
            before_that, before = before, point
            at += size
        if before == 32 or before == 10:
            out[t] = False
    return out


def normalised(data: Bytes, offsets: Offsets) -> Mask:
    """Texts that `normalise` leaves as they are."""
    found: Mask = _normalised(data, offsets, combining_classes())
    return found


@njit(cache=True)
def _without(data: Any, offsets: Any, one: int, other: int) -> Any:
    texts = len(offsets) - 1
    out = np.ones(texts, np.bool_)
    for t in range(texts):
        for at in range(offsets[t], offsets[t + 1]):
            if data[at] == one or data[at] == other:
                out[t] = False
                break
    return out


def without(data: Bytes, offsets: Offsets, one: str, other: str) -> Mask:
    """Texts that hold neither of two ASCII characters."""
    found: Mask = _without(data, offsets, ord(one), ord(other))
    return found
