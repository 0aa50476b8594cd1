"""identical: both sides are the same text, so nothing was translated (or it is a name or a number, from which nothing is learnt)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.dedup.rules import Columns, Mask

READS = ("identical",)


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`identical_sides`."""
    return [("identical_sides", columns["identical"] != 0)]
