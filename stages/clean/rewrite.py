"""Text rules over a batch of texts: a rule sees only the texts that its gate lets through.

    column of texts -> for each rule: TOUCHES searched for in the whole column (compiled, no Python string is made) -> `apply` on those found
                    -> those that changed are put back -> column for the next rule

What is counted, by rule: texts changed, lines removed, and what a rule itself counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.text import languages
from pipeline.text.languages import Language
from stages.clean.rules import Rule, load

Clock: TypeAlias = Callable[[str], AbstractContextManager[None]]
"""What times a part of the work by its name; `untimed` in all work whose output is kept."""


def untimed(name: str) -> AbstractContextManager[None]:
    """No clock."""
    return nullcontext()


class Rewriter:
    """The text rules of a configuration, and what they changed so far."""

    def __init__(self, names: Sequence[str], clock: Clock = untimed) -> None:
        self._rules = load(tuple(names))
        self._clock = clock
        self.changed = {rule.name: 0 for rule in self._rules}
        self.lines_removed = {rule.name: 0 for rule in self._rules}
        self.replaced: Counter[str] = Counter()

    def rewrite(self, column: pa.Array, langs: Sequence[str]) -> pa.Array:
        """The texts after all rules, in order.

        Args:
            column: strings without nulls.
            langs: canonical code of each, or `und`.

        Returns:
            The texts, as `large_string`.
        """
        texts = column.cast(pa.large_string())
        for rule in self._rules:
            with self._clock(f"rule {rule.name}"):
                texts = self._one(rule, texts, langs)
        return texts

    def counts(self) -> dict[str, dict[str, int]]:
        """What was counted, by kind and by rule or name, all of it even where it is 0 (what a rule itself counts: where it is not)."""
        return {"changed": self.changed, "lines_removed": self.lines_removed, "replaced": dict(sorted((+self.replaced).items()))}

    def _one(self, rule: Rule, texts: pa.Array, langs: Sequence[str]) -> pa.Array:
        rows, given = touched(rule.touches, texts)
        changed = np.zeros(len(texts), np.bool_)
        after: list[str] = []
        for row, before in zip(rows, given, strict=True):
            text = rule.apply(before, _language(langs[row]))
            if text != before:
                changed[row] = True
                after.append(text)
                self._count(rule, before, text)
        return pc.replace_with_mask(texts, pa.array(changed), pa.array(after, pa.large_string())) if after else texts

    def _count(self, rule: Rule, before: str, after: str) -> None:
        self.changed[rule.name] += 1
        self.lines_removed[rule.name] += max(0, _lines(before) - _lines(after))
        if rule.count is not None:
            self.replaced.update(rule.count(before, after))


def touched(touches: str | tuple[str, ...] | None, texts: pa.Array) -> tuple[list[int], list[str]]:
    """The rows in which a gate finds something, and their texts."""
    if touches is None:
        return list(range(len(texts))), texts.to_pylist()
    if isinstance(touches, str):
        found = pc.match_substring_regex(texts, touches)
    else:
        found = pa.array(np.zeros(len(texts), np.bool_))
        for needle in touches:
            found = pc.or_(found, pc.match_substring(texts, needle))
    rows = np.flatnonzero(np.asarray(found))
    return rows.tolist(), texts.take(pa.array(rows, pa.int64())).to_pylist() if len(rows) else []


def _lines(text: str) -> int:
    """Lines that are not blank."""
    return sum(not line.isspace() and line != "" for line in text.split("\n"))


@cache
def _language(code: str) -> Language | None:
    return None if code == "und" else languages.lookup(code)


def add_counts(sums: dict[str, dict[str, int]], slot: str, found: Mapping[str, Mapping[str, int]]) -> None:
    """Add a unit's counts to those of the stage, by slot and name."""
    for kind, by_name in found.items():
        for name, number in by_name.items():
            key = f"{slot}: {name}"
            sums.setdefault(kind, {})[key] = sums.get(kind, {}).get(key, 0) + number
