"""length: too few or too many characters or words.

Unit: code points, and words as `clean` estimates them. Source: a bound of this program's own, as C4 and cc_net have one. Direction: both ends are worse; the default only drops what holds no sentence
and what no person wrote in one piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.dedup.rules import Bounds, Columns, Mask

READS = ("characters", "words")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`too_short`, `too_long`, `too_few_words`."""
    bounds = Bounds(columns["lang"], settings)
    return [
        ("too_short", columns["characters"] < bounds.count("min_characters")),
        ("too_long", columns["characters"] > bounds.count("max_characters")),
        ("too_few_words", columns["words"] < bounds.count("min_words")),
    ]
