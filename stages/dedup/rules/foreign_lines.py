"""foreign_lines: too much of a document stands in lines of another language than its label says.

Unit: characters in such lines, in 1/10,000 of those in all lines long enough to be judged; -1 where none was (`identify_lines` of clean is off, or the language cannot be
checked), which is not condemned. Source: OSCAR (Abadji et al. 2022) judges lines; the bound is ours. Direction: more is worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.dedup.rules import Bounds, Columns, Mask

READS = ("foreign_line_share",)


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`foreign_lines`."""
    return [("foreign_lines", columns["foreign_line_share"] > Bounds(columns["lang"], settings).share("max_foreign_line_share"))]
