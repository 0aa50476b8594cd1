"""symbols: a side has hardly any letters among what is visible.

Unit: letters and combining marks, in 1/10,000 of a side's visible characters. Source: OpusFilter's alphabet ratio (Aulamo et al. 2020). Direction: less is worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.dedup.rules import Columns, Mask, ten_thousandths

READS = ("letters_share_a", "letters_share_b")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`symbols`."""
    least = ten_thousandths(settings["min_letters_share"])
    return [("symbols", (columns["letters_share_a"] < least) | (columns["letters_share_b"] < least))]
