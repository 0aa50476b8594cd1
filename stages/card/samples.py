"""Samples of what was dropped: for each reason the rows with the smallest keyed hash of their id, at most so many a language.

A choice among parts of a corpus, chosen from again, is the choice from the whole: whatever a part sets aside has enough smaller hashes of its own language, or
of other languages, in that part already. So the samples do not depend on how the corpus was cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.card.tally import I64, Keys

U64 = np.ndarray[Any, np.dtype[np.uint64]]
Sample = dict[str, Any]
KEY = 0x9E3779B97F4A7C15
"""Sets this hash apart from the ids themselves, by which duplicates are resolved."""


@dataclass(frozen=True)
class Bounds:
    """How many samples a reason has, in all and in one language."""

    total: int
    per_language: int


def keyed(ids: Sequence[bytes] | np.ndarray[Any, Any]) -> U64:
    """A 64-bit hash of each 16-byte id, uint64: its first half through the finaliser of SplitMix64 (Steele et al. 2014) under a key."""
    raw = ids if isinstance(ids, np.ndarray) else np.frombuffer(b"".join(ids), ">u8").reshape(-1, 2)
    mixed = raw[:, 0].astype(np.uint64) + np.uint64(KEY)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def rows_of(reasons: Keys, langs: Keys, hashes: U64, rows: I64, bounds: Bounds) -> I64:
    """Of the numbered rows of a batch those that can be samples: of each reason and language the `per_language` smallest."""
    if not bounds.total or not len(rows):
        return np.zeros(0, np.int64)
    group = reasons.index[rows] * len(langs.names) + langs.index[rows]
    order = np.lexsort((hashes[rows], group))
    ordered = group[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    rank = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.concatenate([starts, [len(ordered)]])))
    return rows[order[rank < bounds.per_language]]


def choose(found: Iterable[Sample], bounds: Bounds) -> list[Sample]:
    """Of samples of one reason the smallest hashes (then ids), as the bounds allow."""
    chosen: list[Sample] = []
    held: dict[str, int] = {}
    for sample in sorted(found, key=lambda sample: (sample["hash"], sample["id"])):
        if len(chosen) < bounds.total and held.get(sample["lang"], 0) < bounds.per_language:
            held[sample["lang"]] = held.get(sample["lang"], 0) + 1
            chosen.append(sample)
    return chosen


class Samples:
    """Samples by reason, narrowed as more come in."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.by_reason: dict[str, list[Sample]] = {}

    def add(self, reason: str, found: Iterable[Sample]) -> None:
        """Consider more rows that one reason dropped."""
        self.by_reason[reason] = choose([*self.by_reason.get(reason, ()), *found], self.bounds)
