"""long_word: a side's longest word is too long and a good part of the side, as in encoded data, broken spacing or a bare address.

Unit: code points of the longest word, and its share of the side in 1/10,000. Source: OpusFilter's long-word filter (Aulamo et al. 2020), of which the share is ours. Direction:
longer is worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stages.dedup.rules import Columns, Mask, ten_thousandths

READS = ("longest_word_a", "longest_word_b", "characters_a", "characters_b")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`long_word`."""
    found = np.zeros(len(columns["characters_a"]), np.bool_)
    for side in "ab":
        longest = columns[f"longest_word_{side}"]
        is_much = 10_000 * longest >= columns[f"characters_{side}"] * ten_thousandths(settings["min_share"])
        found |= (longest > settings["max_characters"]) & is_much
    return [("long_word", found)]
