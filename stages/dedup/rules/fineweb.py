"""fineweb: lists and boilerplate by the shape of lines.

Unit: shares in 1/10,000, see `FineWebRule`. Source: FineWeb (Penedo et al. 2024, section 3.6). Direction: more is worse, but for lines that end as a sentence does; those are not
judged in scripts whose sentences usually end in no mark (Thai, Lao, Tibetan, …).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.dedup.rules import Bounds, Columns, Mask
from stages.dedup.scripts import has_sentence_ends

READS = ("punctuated_line_share", "short_line_share", "duplicate_line_characters_share", "newline_word_ratio")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`fineweb_unpunctuated`, `fineweb_short_lines`, `fineweb_duplicate_lines`, `fineweb_list`."""
    bounds = Bounds(columns["lang"], settings)
    return [
        (
            "fineweb_unpunctuated",
            has_sentence_ends(columns["lang"]) & (columns["punctuated_line_share"] < bounds.share("min_punctuated_line_share")),
        ),
        ("fineweb_short_lines", columns["short_line_share"] > bounds.share("max_short_line_share")),
        (
            "fineweb_duplicate_lines",
            columns["duplicate_line_characters_share"] > bounds.share("max_duplicate_line_characters_share"),
        ),
        ("fineweb_list", columns["newline_word_ratio"] > bounds.share("max_newline_word_ratio")),
    ]
