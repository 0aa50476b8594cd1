"""numerals: the digits of the two sides do not match (see `pipeline.text.numerals`), where there are enough of them to tell.

Unit: the share of non-zero digits that both sides hold, in 1/10,000. Source: OpusFilter's filter of non-zero numerals (Aulamo et al. 2020). Direction: less is worse.

Of true pairs with English 0.24% break the defaults, mostly where a translator converted miles or inches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.text.numerals import similarity
from stages.dedup.rules import Columns, Mask, ten_thousandths

READS = ("numerals_a", "numerals_b")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`numerals`."""
    digits, alike = similarity(columns["numerals_a"], columns["numerals_b"])
    return [("numerals", (digits >= settings["min_digits"]) & (alike < ten_thousandths(settings["min_similarity"])))]
