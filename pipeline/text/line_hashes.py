"""128 bits for each line or paragraph, equal for those that differ only in case, in which digits they have, and in punctuation.

    text -> characters, lower-cased, digits as 0, without punctuation, one space for any white space -> two 64-bit hashes a line, or a paragraph

As cc_net's paragraph key (Wenzek et al. 2020), but combining marks stay, without which many Indic and Thai lines would be one. `data` and `offsets` are as for
`shingles`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, uint64

from pipeline.text.kernels import _mix, _point
from pipeline.text.shingles import CLASS_SHIFT, LETTER_MASK, U64, entry_of, letters
from pipeline.text.tables import DIGIT, SPACE, SYMBOL

_P = np.uint64(0x100000001B3)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_SEED = np.uint64(0xCBF29CE484222325)
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Offsets = np.ndarray[Any, np.dtype[np.int64]]


@njit(cache=True)
def line_counts(data: Any, offsets: Any) -> Any:
    """Lines of each text, int64, shape (texts,): one more than it has line feeds."""
    counts = np.ones(len(offsets) - 1, np.int64)
    for t in range(len(offsets) - 1):
        feeds = 0
        for byte in data[offsets[t] : offsets[t + 1]]:
            feeds += byte == 10
        counts[t] += feeds
    return counts


@njit(cache=True)
def _hashes(data: Any, offsets: Any, least: int, of_paragraphs: bool, letters: Any) -> Any:
    texts = len(offsets) - 1
    room = line_counts(data, offsets).sum()
    text_of = np.empty(room, np.int64)
    line_of = np.empty(room, np.int32)
    spans = np.empty(room, np.int32)
    first = np.empty(room, np.uint64)
    second = np.empty(room, np.uint64)
    counts = np.zeros(texts, np.int32)
    used = 0
    for t in range(texts):
        at, end = offsets[t], offsets[t + 1]
        line, begin, characters, on_line, gap = 0, 0, 0, 0, False
        h, g = uint64(_SEED), uint64(1)
        while at <= end:
            if at < end:
                point, size = _point(data, at)
            else:
                point, size = 10, 1
            if point == 10:
                if not of_paragraphs or on_line == 0 or at >= end:  # an empty line, or the end, ends a paragraph
                    if characters or not of_paragraphs:
                        counts[t] += 1
                    if characters >= least:
                        text_of[used], line_of[used], spans[used] = t, begin, line - begin + 1
                        first[used], second[used] = _mix(h), _mix(g)
                        used += 1
                    begin, characters, gap = line + 1, 0, False
                    h, g = uint64(_SEED), uint64(1)
                else:
                    gap = h != uint64(_SEED)
                line += 1
                on_line = 0
            else:
                characters += 1
                on_line += 1
                entry = entry_of(letters, point)
                bits = entry >> CLASS_SHIFT
                if bits & SPACE:
                    gap = h != uint64(_SEED)
                elif not bits & SYMBOL:
                    if gap:
                        h = (h ^ uint64(32)) * uint64(_P)
                        g = (g + uint64(32)) * uint64(_BASE)
                        gap = False
                    value = uint64(48) if bits & DIGIT else uint64(entry & LETTER_MASK)
                    h = (h ^ value) * uint64(_P)
                    g = _mix(g + value) * uint64(_BASE)
            at += size
    return text_of[:used].copy(), line_of[:used].copy(), spans[:used].copy(), first[:used].copy(), second[:used].copy(), counts


def line_hashes(data: Bytes, offsets: Offsets, min_characters: int) -> tuple[Any, Any, U64, U64, Any]:
    """Hashes of each line of at least so many characters (1 or more).

    Returns:
        text (int64) and line number (int32) of each such line, its two hashes (uint64 each), and the number of lines of each text (int32).
    """
    text_of, line_of, _, first, second, lines = _hashes(data, offsets, max(1, min_characters), False, letters())
    return text_of, line_of, first, second, lines


def paragraph_hashes(data: Bytes, offsets: Offsets, min_characters: int) -> tuple[Any, Any, Any, U64, U64, Any]:
    """Hashes of each paragraph of at least so many characters (1 or more; line feeds not counted); an empty line parts paragraphs.

    Returns:
        text (int64), first line and number of lines (int32, with the empty line behind it) of each such paragraph, its two hashes (uint64 each), and the number of paragraphs of each text (int32).
    """
    text_of, line_of, spans, first, second, counts = _hashes(data, offsets, max(1, min_characters), True, letters())
    return text_of, line_of, spans, first, second, counts
