"""Precision and recall of near-duplicate clusters against brute force: the true Jaccard similarity of every pair that shares a shingle.

texts -> distinct shingles -> every pair of texts with one in common -> pairs at or over the bound -> their components = the true clusters
pairs in one true cluster  vs  pairs in one cluster of the engine, exact copies of one text taken once
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.tables import read_table, utf8
from pipeline.text import minhash, shingles
from tests.benchmarks import engine

BOUND = 7_000
"""The engine's own bound on similarity, in 1/10,000."""
COMMON = 2_000
"""A shingle of more texts than this says nothing of likeness."""


def measure(storage: Path) -> tuple[float, float, str]:
    """Precision, recall and a line that says what was counted, for the last run in a storage root."""
    texts: dict[str, str] = {}
    for shard in engine.texts(storage):
        table = read_table(shard, ("url", "text"))
        texts.update(zip(table["url"].to_pylist(), table["text"].to_pylist(), strict=True))
    first: dict[str, str] = {}
    for name, text in sorted(texts.items()):
        first.setdefault(text, name)
    names = sorted(first.values())
    values, starts = shingles.distinct_shingles(*utf8(pa.array([texts[name] for name in names], pa.large_string())))
    pairs = _sharing(values, starts)
    likeness = minhash.jaccard(values, starts, pairs)
    true = _pairs_of(minhash.components(len(names), pairs[likeness >= BOUND]).tolist())
    decided = engine.decisions(storage)
    by_own = {own: cluster for _, own, cluster in decided.values()}
    found = _pairs_of([_root(by_own, _root(by_own, decided[name][1])) for name in names])
    hit = len(true & found)
    precision, recall = hit / max(1, len(found)), hit / max(1, len(true))
    spread = np.histogram(likeness[likeness >= 5_000], bins=[5_000, 6_000, 7_000, 7_500, 8_000, 8_500, 9_000, 9_500, 10_001])[0].tolist()
    says = (
        f"  precision {precision:.4f}, recall {recall:.4f}: {len(true):,} true pairs, {len(found):,} found, {hit:,} of both, among {len(names):,} different texts\n"
        f"    Jaccard similarity of {len(pairs):,} pairs that share a shingle; of those from .5: {spread} in [.5 .6 .7 .75 .8 .85 .9 .95 1]"
    )
    return precision, recall, says


def _root(by_own: dict[str, str], own: str) -> str:
    """The survivor in which a chain of clusters ends: that of the copies, then that of what is nearly the same."""
    while by_own[own] != own:
        own = by_own[own]
    return own


def _pairs_of(labels: list[object]) -> set[tuple[int, int]]:
    groups: dict[object, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        groups[label].append(number)
    return {pair for group in groups.values() for pair in combinations(group, 2)}


def _sharing(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Every pair of rows that share a value, once, shape (pairs, 2)."""
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.lexsort((rows, values))
    value, row = values[order], rows[order]
    edges = np.concatenate([[0], np.flatnonzero(value[1:] != value[:-1]) + 1, [len(value)]])
    sizes = np.diff(edges)
    keys: list[np.ndarray] = []
    for size in np.unique(sizes[(sizes > 1) & (sizes <= COMMON)]).tolist():
        group = row[edges[:-1][sizes == size][:, None] + np.arange(size)]
        for a in range(size - 1):
            keys.append(np.unique((group[:, a, None] << 32 | group[:, a + 1 :]).ravel()))
        if len(keys) > 64:
            keys = [np.unique(np.concatenate(keys))]
    every = np.unique(np.concatenate(keys or [np.zeros(0, np.int64)]))
    return np.column_stack([every >> 32, every & 0xFFFFFFFF])
