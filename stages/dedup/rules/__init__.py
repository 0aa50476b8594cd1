"""Decision rules: why a document is dropped, from its columns alone, a whole batch at a time. A new rule is a new file here and a line in `RULES`.

A rule's module has

    READS      the columns that it looks at, besides `lang`
    reasons    (columns, settings) -> [(reason, mask), …]: `columns` maps a name to an array over the batch (integers int64, shares in
               1/10,000; strings as objects, null is None), `settings` is the rule's own section of the configuration as plain data

The first mask that is true gives a row's reason. Bounds are compared in whole numbers, so that no float decides what is kept: `ten_thousandths`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np  # a plan lists the rules and must not load it

RULES = {
    "length": "stages.dedup.rules.length",
    "repetition": "stages.dedup.rules.repetition",
    "gopher": "stages.dedup.rules.gopher",
    "c4": "stages.dedup.rules.c4",
    "fineweb": "stages.dedup.rules.fineweb",
    "language": "stages.dedup.rules.language",
    "script": "stages.dedup.rules.script",
    "foreign_lines": "stages.dedup.rules.foreign_lines",
}

Columns = Mapping[str, "np.ndarray[Any, np.dtype[Any]]"]
Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"
Rule = Callable[[Columns, Mapping[str, Any]], list[tuple[str, "Mask"]]]


def load(names: tuple[str, ...]) -> list[tuple[str, Rule]]:
    """The rules of these names, in this order; the configuration has checked that they are registered."""
    return [(name, import_module(RULES[name]).reasons) for name in names]


def columns_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that these rules look at, `lang` first."""
    return tuple(dict.fromkeys(["lang", *(column for name in names for column in import_module(RULES[name]).READS)]))


def ten_thousandths(share: float) -> int:
    """A share of the configuration in the unit of the measured columns."""
    return round(share * 10_000)


def thresholds(langs: np.ndarray[Any, Any], default: int, own: Mapping[str, int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The bound of each row: its language's own, else the default; int64, shape (rows,)."""
    import numpy as np

    if not own:
        return np.full(len(langs), default, np.int64)
    return np.fromiter((own.get(lang, default) for lang in langs), np.int64, len(langs))
