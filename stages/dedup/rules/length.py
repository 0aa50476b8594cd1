"""length: too few or too many characters or words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def reason(row: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """`too_short`, `too_long`, `too_few_words`, or None."""
    if row["characters"] < settings["min_characters"]:
        return "too_short"
    if row["characters"] > settings["max_characters"]:
        return "too_long"
    if row["words"] < settings["min_words"]:
        return "too_few_words"
    return None
