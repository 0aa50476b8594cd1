"""Sums and histograms by language, in whole numbers: filled a batch at a time, written as plain data, added up in any order.

languages of a batch -> Keys (names, index of each row's name) -> Tally.add / Tally.spread -> plain -> Tally.merge of all parts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

I64 = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

LENGTH_EDGES = (0, *(1 << power for power in range(21)))
"""Borders of lengths in characters: 0, then powers of two up to 1,048,576."""
CONFIDENCE_EDGES = tuple(range(0, 10_000, 500))
"""Borders of confidence in 1/10,000: twenty equal parts, the last with 1."""
CLUSTER_EDGES = (2, 3, 4, 5, 9, 17, 33, 65, 129, 257, 1025)
"""Borders of the number of documents in a cluster of duplicates."""
OTHERS = "(others)"
"""Stands for all names that are not told apart."""
DUPLICATES = ("duplicate", "duplicate_url")
NEAR = "near_duplicate"
"""Reasons of documents that went for another that is the same, or nearly so."""
POISON = "poison"
"""Reason of what could not be judged, as it kills its worker: it has a decision, and is quarantined rather than dropped."""
EDGES = {"characters": LENGTH_EDGES, "confidence": CONFIDENCE_EDGES, "cluster_size": CLUSTER_EDGES}


@dataclass(frozen=True)
class Keys:
    """The names in a column, and for each row which one it has, int64, shape (rows,)."""

    names: list[str]
    index: I64

    @staticmethod
    def of(column: pa.Array) -> Keys:
        """Of a string column; null counts as the empty string."""
        encoded = pa.compute.dictionary_encode(column.fill_null("") if column.null_count else column)
        return Keys(encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64))

    def joined(self, other: Keys, mark: str) -> Keys:
        """Both names of each row with a mark between them."""
        both = self.index * max(1, len(other.names)) + other.index
        found, index = np.unique(both, return_inverse=True)
        names = [f"{self.names[int(b) // len(other.names)]}{mark}{other.names[int(b) % len(other.names)]}" for b in found]
        return Keys(names, index.reshape(-1).astype(np.int64))

    def is_(self, name: str) -> Mask:
        """Which rows have this name."""
        return self.index == self.names.index(name) if name in self.names else np.zeros(len(self.index), np.bool_)

    def counts(self) -> dict[str, int]:
        """Rows by name."""
        found = np.bincount(self.index, minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, found, strict=True) if count}


def became(reason: str) -> str:
    """What a reason that stands in a decision makes of a row: `dropped` or `quarantined`."""
    return "quarantined" if reason == POISON else "dropped"


def buckets(values: I64, edges: Sequence[int]) -> I64:
    """The bucket of each value; what is below the first border falls into the first."""
    return np.maximum(np.searchsorted(np.asarray(edges, np.int64), values, "right") - 1, 0).astype(np.int64)


@dataclass
class Tally:
    """`sums[key][name]` and `spreads[key][name][bucket]`."""

    sums: dict[str, dict[str, int]] = field(default_factory=dict)
    spreads: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def add(self, keys: Keys, name: str, values: I64 | None = None, where: Mask | None = None) -> None:
        """Add values (1 a row where none are given) of the rows in `where` to the sum `name` of their keys."""
        index = keys.index if where is None else keys.index[where]
        if values is None:
            found = np.bincount(index, minlength=len(keys.names)).astype(np.int64)
        else:
            found = np.zeros(len(keys.names), np.int64)
            np.add.at(found, index, values if where is None else values[where])
        for key, value in zip(keys.names, found.tolist(), strict=True):
            own = self.sums.setdefault(key, {})
            own[name] = own.get(name, 0) + value

    def spread(self, keys: Keys, name: str, values: I64, edges: Sequence[int], where: Mask | None = None) -> None:
        """Count the rows in `where` by bucket of their values."""
        index, chosen = (keys.index, values) if where is None else (keys.index[where], values[where])
        width = len(edges)
        flat = np.bincount(index * width + buckets(chosen, edges), minlength=len(keys.names) * width)
        for key, counts in zip(keys.names, flat.reshape(-1, width).tolist(), strict=True):
            self._spread(key, name, counts)

    def _spread(self, key: str, name: str, counts: Sequence[int]) -> None:
        own = self.spreads.setdefault(key, {})
        own[name] = [a + b for a, b in zip(own.get(name, [0] * len(counts)), counts, strict=True)]

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {"sums": self.sums, "spreads": self.spreads}

    def merge(self, plain: Mapping[str, Any]) -> None:
        """Add another tally's plain data."""
        for key, row in plain["sums"].items():
            own = self.sums.setdefault(key, {})
            for name, value in row.items():
                own[name] = own.get(name, 0) + value
        for key, by_name in plain["spreads"].items():
            for name, counts in by_name.items():
                self._spread(key, name, counts)

    def column(self, name: str) -> dict[str, int]:
        """One sum by key, where it is not 0."""
        return {key: row[name] for key, row in self.sums.items() if row.get(name)}
