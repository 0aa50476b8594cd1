"""identical: both sides are the same text, so nothing was translated (or it is a name or a number, from which nothing is learnt).

Unit: the pair. Source: Bicleaner's hard rules (Sánchez-Cartagena et al. 2018), which drop a copy. Direction: equal is worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.dedup.rules import Columns, Mask

READS = ("identical",)


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`identical_sides`."""
    return [("identical_sides", columns["identical"] != 0)]
