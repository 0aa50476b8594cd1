"""blocklist: the address stands on a list of blocked ones, or the text holds too many listed words, by the user's lists in `clean`.

Unit: counts of the document. Source: FineWeb (Penedo et al. 2024), which drops by address, and C4 (Raffel et al. 2020), which drops a page for one listed word. Direction: more is worse; where no list
was given nothing goes. A word counts as often as it stands there; see `BlocklistRule`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.dedup.rules import Bounds, Columns, Mask

READS = ("blocked_url", "blocked_words")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`blocked_url`, `blocked_words`."""
    bounds = Bounds(columns["lang"], settings)
    return [
        ("blocked_url", columns["blocked_url"] > 0),
        ("blocked_words", columns["blocked_words"] > bounds.count("max_words")),
    ]
