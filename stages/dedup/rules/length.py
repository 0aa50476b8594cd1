"""length: too few or too many characters or words."""

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
