"""ratio: one side is several times as long as the other, in words (estimated where none are parted) and in characters too.

Unit: the longer side over the shorter, in 1/10,000. Source: OpusFilter's length ratio (Aulamo et al. 2020), there of one unit alone. Direction: more is worse.

Words alone differ threefold between an agglutinating language and one that writes syllables apart, characters alone between Chinese and English; both together do not:
of 185,000 true pairs with English one in 10,000 breaks a ratio of 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stages.dedup.rules import Columns, Mask, ten_thousandths

READS = ("words_a", "words_b", "characters_a", "characters_b")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`length_ratio`."""
    broken = np.maximum(columns["characters_a"], columns["characters_b"]) >= settings["min_characters"]
    for unit in ("words", "characters"):
        a, b = columns[f"{unit}_a"], columns[f"{unit}_b"]
        broken &= 10_000 * np.maximum(a, b) > np.minimum(a, b) * ten_thousandths(settings["max_ratio"])
    return [("length_ratio", broken)]
