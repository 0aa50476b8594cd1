"""length: too few or too many characters or words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.dedup.rules import Columns, Mask

READS = ("characters", "words")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`too_short`, `too_long`, `too_few_words`."""
    return [
        ("too_short", columns["characters"] < settings["min_characters"]),
        ("too_long", columns["characters"] > settings["max_characters"]),
        ("too_few_words", columns["words"] < settings["min_words"]),
    ]
