"""Decision rules: why a document is dropped, from its measured columns alone. A new rule is a new file here and a line in `RULES`.

A rule's module has `reason(row, settings) -> str | None`: `row` holds the measured columns (integers, shares in 1/10000), `settings` the rule's own section
of the configuration as plain data. Shares are quantised to 1/10000 before they are compared, so that no float decides a byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

RULES = {
    "length": "stages.dedup.rules.length",
    "repetition": "stages.dedup.rules.repetition",
    "language": "stages.dedup.rules.language",
}

Rule = Callable[[Mapping[str, Any], Mapping[str, Any]], str | None]


def load(names: tuple[str, ...]) -> list[tuple[str, Rule]]:
    """The rules of these names, in this order; the configuration has checked that they are registered."""
    return [(name, import_module(RULES[name]).reason) for name in names]


def ten_thousandths(share: float) -> int:
    """A share of the configuration in the unit of the measured columns."""
    return round(share * 10_000)
