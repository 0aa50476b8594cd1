"""length: too few or too many characters or words.

Unit: code points, and words as `clean` estimates them. Source: a bound of this program's own, as C4 and cc_net have one. Direction: both ends are worse; the default only drops what holds no sentence
and what no person wrote in one piece.
"""

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
