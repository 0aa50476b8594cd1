"""Bounds derived from the corpus itself, per language, with their evidence.

    columns of a shard -> a histogram for each (language, column)          (sketch, map; no text is read)
    all histograms     -> sums -> quantiles -> thresholds.json             (thresholds, one unit)

After FineWeb2 (Penedo et al. 2025): a bound that fits English is moved to where the same share of each language's own documents lies beyond it, and a score of identification to
its median less a standard deviation; within a floor and a ceiling, and only where a language has documents enough. A language that has not, or names the bound itself
(`languages`), keeps what the configuration says.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.manifest import Shard
from pipeline.tables import read_table
from pipeline.task import Task
from pipeline.text.identify import agrees
from stages.dedup.rules import column_scale
from stages.dedup.sketch import Histogram, buckets

HISTOGRAMS = pa.schema(
    [
        pa.field("lang", pa.string(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("bucket", pa.int32(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
EVIDENCE = {"p05": 500, "median": 5_000, "p95": 9_500}
"""Quantiles that are written out beside the derived bound, in 1/10,000."""


def sketch(task: Task) -> None:
    """Worker: the histograms of one shard's columns. A figure below 0 (nothing to measure against) is not counted; of `identified_score` only those of
    documents that are identified as what their label says."""
    shard = Shard(**task.argument["columns"])
    wanted = list(task.settings["columns"])
    table = read_table(task.storage.local(shard.path, shard.sha256), ["lang", "identified", *wanted])
    langs = np.array(table["lang"].to_pylist(), dtype=object)
    own = {pair: agrees(*pair) for pair in set(zip(langs.tolist(), table["identified"].to_pylist(), strict=True))}
    is_own = np.array([own[pair] for pair in zip(langs.tolist(), table["identified"].to_pylist(), strict=True)], np.bool_)
    with task.table("histograms", HISTOGRAMS) as writer:
        for name in wanted:
            values = table[name].to_numpy().astype(np.int64)
            counted = values >= 0
            if name == "identified_score":
                counted &= is_own
            for lang in sorted(set(langs.tolist())):
                found, counts = np.unique(buckets(values[counted & (langs == lang)]), return_counts=True)
                for bucket, count in zip(found.tolist(), counts.tolist(), strict=True):
                    writer.row({"lang": lang, "column": name, "bucket": bucket, "count": count})
    for lang, count in Counter(langs.tolist()).items():
        task.ledger.keep(lang, count)


def thresholds(task: Task) -> None:
    """Worker: thresholds.json: for each bound and language the number of documents, the quantiles, the default and what is chosen, in the bound's own unit."""
    found: dict[tuple[str, str], Histogram] = {}
    for plain in task.argument["histograms"]:
        shard = Shard(**plain)
        if not shard.rows:
            continue
        table = read_table(task.storage.local(shard.path, shard.sha256))
        keys = list(zip(table["column"].to_pylist(), table["lang"].to_pylist(), strict=True))
        column, count = (table[name].to_numpy().astype(np.int64) for name in ("bucket", "count"))
        edges = [0, *(n for n in range(1, len(keys)) if keys[n] != keys[n - 1]), len(keys)]
        for first, last in pairwise(edges):
            found.setdefault(keys[first], Histogram()).add(column[first:last], count[first:last])
    made = {
        bound: {lang: _threshold(bound, how, found[column, lang], task.settings["min_documents"]) for column, lang in sorted(found) if column == how["column"]}
        for bound, how in sorted(task.settings["bounds"].items())
    }  # fmt: skip
    with task.file("thresholds.json") as path:
        path.write_text(json.dumps(made, indent=1, sort_keys=True), encoding="utf-8")


def _threshold(bound: str, how: Mapping[str, Any], seen: Histogram, min_documents: int) -> dict[str, Any]:
    is_maximum = bound.rpartition(".")[2].startswith("max_")
    scale = column_scale(how["column"])
    evidence = {name: seen.quantile(at, upper=is_maximum) / scale for name, at in EVIDENCE.items()}
    row: dict[str, Any] = {"documents": seen.count, **evidence, "deviation": seen.deviation() / scale, "default": how["default"]}
    if seen.count < min_documents:
        return {**row, "derived": None, "chosen": how["default"], "because": "too_few_documents"}
    if how["how"] == "median_less_deviation":
        value = seen.quantile(5_000, upper=False) - seen.deviation()
    else:
        value = seen.quantile(round(how["quantile"] * 10_000), upper=is_maximum)
    floor, ceiling = round(how["floor"] * scale), round(how["ceiling"] * scale)
    because = "floor" if value < floor else "ceiling" if value > ceiling else how["how"]
    return {**row, "derived": value / scale, "chosen": min(max(value, floor), ceiling) / scale, "because": because}


def merged(section: Mapping[str, Any], rule: str, made: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """A rule's section with the derived bounds as those of their languages; what the configuration names for a language stands."""
    own: dict[str, dict[str, Any]] = {}
    for bound, by_lang in made.items():
        name, _, field = bound.partition(".")
        if name == rule:
            for lang, row in by_lang.items():
                if row["derived"] is not None:
                    own.setdefault(lang, {})[field] = row["chosen"]
    for lang, bounds in section.get("languages", {}).items():
        own.setdefault(lang, {}).update(bounds)
    return {**section, "languages": {lang: dict(sorted(own[lang].items())) for lang in sorted(own)}}
