"""language: the text is, with confidence, in another language than its label says.

A language that no identification model knows cannot be checked and is never condemned; varieties that the models know under a wider name agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.text.identify import agrees, supported
from stages.dedup.rules import ten_thousandths


def reason(row: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """`wrong_language` or None."""
    if row["characters"] < settings["min_characters"] or row["lang"] not in supported() or row["identified"] == "und":
        return None
    if agrees(row["lang"], row["identified"]) or row["identified_score"] < ten_thousandths(settings["min_score"]):
        return None
    return "wrong_language"
