"""length: a side with too few or too many words or characters; words are counted a line, so that an aligned paragraph of many lines is no long sentence.

Unit: words a line, code points a side. Source: OpusFilter's length filter (Aulamo et al. 2020). Direction: both ends are worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stages.dedup.rules import Columns, Mask

READS = ("words_a", "words_b", "lines_a", "lines_b", "characters_a", "characters_b")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`pair_short`, `pair_long`."""
    short, long = np.zeros(len(columns["words_a"]), np.bool_), np.zeros(len(columns["words_a"]), np.bool_)
    for side in "ab":
        words, lines = columns[f"words_{side}"], np.maximum(columns[f"lines_{side}"], 1)
        short |= words < settings["min_words"]
        long |= (words > settings["max_words_per_line"] * lines) | (columns[f"characters_{side}"] > settings["max_characters"])
    return [("pair_short", short), ("pair_long", long)]
