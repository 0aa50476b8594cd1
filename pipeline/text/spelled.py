"""Texts as they stand between the quotes of JSON, a whole batch at once: the bytes that `json.dumps(text, ensure_ascii=False)` gives, without its quotes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


def _short() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """By byte: 0 where it stands for itself, the letter behind the backslash where it has one, "u" for the other controls."""
    found = np.zeros(256, np.uint8)
    found[:32] = ord("u")
    for byte, letter in zip(b'"\\\n\r\t\f\b', b'"\\nrtfb', strict=True):
        found[byte] = letter
    return found


_SHORT = _short()
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


@njit(cache=True)
def _spell(data: Any, offsets: Any, short: Any, digits: Any) -> Any:
    texts = len(offsets) - 1
    size = 0
    for at in range(offsets[0], offsets[texts]):
        letter = short[data[at]]
        size += 1 if letter == 0 else 6 if letter == 117 else 2
    out = np.empty(size, np.uint8)
    edges = np.zeros(texts + 1, np.int64)
    used = 0
    for t in range(texts):
        for at in range(offsets[t], offsets[t + 1]):
            byte = data[at]
            letter = short[byte]
            if letter == 0:
                out[used] = byte
                used += 1
                continue
            out[used], out[used + 1] = 92, letter
            used += 2
            if letter == 117:
                out[used], out[used + 1], out[used + 2], out[used + 3] = 48, 48, digits[byte >> 4], digits[byte & 15]
                used += 4
        edges[t + 1] = used
    return out, edges


def json_spelling(
    data: np.ndarray[Any, np.dtype[np.uint8]], offsets: np.ndarray[Any, np.dtype[np.int64]]
) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Spell a batch of texts (UTF-8, and where each begins and the last ends).

    Returns:
        all of them, one behind the other, uint8, and where each begins and the last ends, int64, shape (texts + 1,).
    """
    spelled, edges = _spell(data, offsets, _SHORT, _DIGITS)
    return spelled, edges
