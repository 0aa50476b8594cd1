"""Decision rules: why a document is dropped, from its columns alone, a whole batch at a time. A new rule is a new file here and a line in `RULES`.

A rule's module has

    READS      the columns that it looks at, besides `lang`
    reasons    (columns, settings) -> [(reason, mask), …]: `columns` maps a name to an array over the batch (integers int64, shares in
               1/10,000; strings as objects, null is None), `settings` is the rule's own section of the configuration as plain data

The first mask that is true gives a row's reason. Bounds are compared in whole numbers, so that no float decides what is kept, and read through `Bounds`, so that a
language may have its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np  # a plan lists the rules and must not load it

RULES = {
    "blocklist": "stages.dedup.rules.blocklist",
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
Bound: TypeAlias = "int | np.ndarray[Any, np.dtype[np.int64]]"
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


class Bounds:
    """The bounds of a rule for the rows of a batch: a language's own (`languages` in the rule's section) where it has one, else the rule's."""

    def __init__(self, langs: np.ndarray[Any, Any], settings: Mapping[str, Any]) -> None:
        self._langs, self._settings = langs, settings
        own = settings.get("languages") or {}
        self._own = {lang: own[lang] for lang in sorted(set(langs.tolist()) & own.keys())} if own else {}

    def count(self, name: str) -> Bound:
        """A bound on a count."""
        return self._rows(self._settings[name], {lang: bounds[name] for lang, bounds in self._own.items() if name in bounds}, 1)

    def share(self, name: str) -> Bound:
        """A bound on a measure that is kept in 1/10,000."""
        return self._rows(self._settings[name], {lang: bounds[name] for lang, bounds in self._own.items() if name in bounds}, 10_000)

    def shares(self, name: str) -> list[tuple[int, Bound]]:
        """Bounds by length of n-gram, in 1/10,000; a language's own replace those of the same length."""
        every = {int(n): share for n, share in self._settings[name].items()}
        own = {lang: {int(n): share for n, share in bounds[name].items()} for lang, bounds in self._own.items() if name in bounds}
        lengths = sorted({*every, *(n for shares in own.values() for n in shares)})
        return [(n, self._rows(every.get(n, 1), {lang: shares[n] for lang, shares in own.items() if n in shares}, 10_000)) for n in lengths]

    def _rows(self, default: float, own: Mapping[str, float], scale: int) -> Bound:
        if not own:
            return round(default * scale)
        import numpy as np

        bound = {lang: round(value * scale) for lang, value in own.items()}
        return np.fromiter((bound.get(lang, round(default * scale)) for lang in self._langs.tolist()), np.int64, len(self._langs))


def column_scale(column: str) -> int:
    """How many units of a measured column make one of its bound: 10,000 for what is kept in 1/10,000, else 1."""
    return 10_000 if column.endswith(("_share", "_ratio", "_score")) or column == "mean_word_length" else 1
