"""Sums, histograms and samples: as plain Python has them, and the same however the corpus is cut."""

from __future__ import annotations

import random
from collections import Counter
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.corpus import pair_up
from pipeline.errors import LedgerError
from pipeline.task import NONE_APART, Task
from stages.card import books
from stages.card.assemble import Parts, corpus
from stages.card.books import Page
from stages.card.counting import decided_documents
from stages.card.samples import Bounds, Sample, Samples, choose, keyed, rows_of
from stages.card.tally import LENGTH_EDGES, Keys, Tally, buckets
from stages.card.work import _agree_reasons
from tests.stages.dedup.inside import Stage


def drawn(seed: int, rows: int) -> list[tuple[str, int]]:
    draw = random.Random(seed)
    return [(draw.choice(["am", "en", "th"]), int(2 ** draw.uniform(0, 22))) for _ in range(rows)]


def test_sums_and_histograms_of_batches_added_up_are_those_of_plain_python() -> None:
    rows = drawn(1, 500)
    whole = Tally()
    for at in range(0, 500, 90):
        own, part = rows[at : at + 90], Tally()
        keys = Keys.of(pa.array([lang for lang, _ in own]))
        values = np.array([value for _, value in own], np.int64)
        part.add(keys, "rows")
        part.add(keys, "characters", values)
        part.add(keys, "long", values, values > 1000)
        part.spread(keys, "lengths", values, LENGTH_EDGES)
        whole.merge(part.plain())
    for lang in ("am", "en", "th"):
        mine = [value for name, value in rows if name == lang]
        assert whole.sums[lang] == {"rows": len(mine), "characters": sum(mine), "long": sum(value for value in mine if value > 1000)}
        edges = [*LENGTH_EDGES, 1 << 60]
        expected = [sum(low <= value < high for value in mine) for low, high in pairwise(edges)]
        assert whole.spreads[lang]["lengths"] == expected


def test_a_value_on_a_border_falls_above_it_and_one_below_all_into_the_first() -> None:
    assert buckets(np.array([-3, 0, 1, 2, 3, 4, 1 << 20, 1 << 40]), LENGTH_EDGES).tolist() == [0, 0, 1, 2, 2, 3, 21, 21]


def test_names_of_two_columns_are_joined_row_by_row() -> None:
    joined = Keys.of(pa.array(["a", "b", "a", None])).joined(Keys.of(pa.array(["x", "x", "y", "x"])), "-")
    assert [joined.names[n] for n in joined.index] == ["a-x", "b-x", "a-y", "-x"]


# ---------------------------------------------------------------- samples


def candidates(seed: int, rows: int) -> list[Sample]:
    draw = random.Random(seed)
    langs = draw.choices(["am", "en", "th", "yo"], weights=[1, 60, 5, 2], k=rows)
    ids = [blake2b(f"{seed} {n}".encode(), digest_size=16).digest() for n in range(rows)]
    return [{"id": i.hex(), "lang": lang, "hash": int(h)} for i, lang, h in zip(ids, langs, keyed(ids), strict=True)]


@pytest.mark.parametrize("bounds", [Bounds(8, 2), Bounds(5, 5), Bounds(3, 1), Bounds(0, 1)])
def test_samples_chosen_from_parts_are_those_chosen_from_the_whole(bounds: Bounds) -> None:
    found = candidates(7, 400)
    draw = random.Random(9)
    for _ in range(10):
        draw.shuffle(found)
        samples, at = Samples(bounds), 0
        while at < len(found):
            size = draw.randint(1, 80)
            samples.add("short", choose(found[at : at + size], bounds))
            at += size
        assert samples.by_reason["short"] == choose(found, bounds)
    chosen = choose(found, bounds)
    assert len(chosen) <= bounds.total
    assert max(Counter(sample["lang"] for sample in chosen).values(), default=0) <= bounds.per_language
    assert [sample["hash"] for sample in chosen] == sorted(sample["hash"] for sample in chosen)


def test_only_the_smallest_hashes_of_each_reason_and_language_are_looked_at() -> None:
    found = candidates(3, 200)
    reasons = Keys.of(pa.array(["", "short", "long"] * 66 + ["", ""]))
    langs = Keys.of(pa.array([sample["lang"] for sample in found]))
    hashes = np.array([sample["hash"] for sample in found], np.uint64)
    dropped = np.flatnonzero(reasons.index != reasons.names.index(""))
    rows = rows_of(reasons, langs, hashes, dropped, Bounds(8, 2)).tolist()
    expected: dict[Any, list[int]] = {}
    for row in dropped.tolist():
        expected.setdefault((reasons.index[row], langs.index[row]), []).append(row)
    assert sorted(rows) == sorted(row for group in expected.values() for row in sorted(group, key=lambda row: hashes[row])[:2])


def test_the_hash_of_samples_does_not_follow_the_order_of_ids() -> None:
    found = sorted(candidates(5, 300), key=lambda sample: sample["id"])
    order = np.argsort([sample["hash"] for sample in found])
    assert abs(np.corrcoef(order, np.arange(300))[0, 1]) < 0.2


# ---------------------------------------------------------------- decisions


def test_what_could_not_be_judged_is_quarantined_and_not_dropped(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    texts = ["One sentence of a few words.", "Another sentence of a few words.", "This one kills its worker, say.", "short"]
    shard = stage.shard([{"name": str(number), "text": text} for number, text in enumerate(texts)])
    found = stage.run([shard], poison={"hash": frozenset({2})})
    ledger = found.summary.ledgers["documents"]
    (pairing,) = pair_up((shard,), tuple(found.output.shards["decisions"]))
    settings = {"samples": 8, "samples_per_language": 2, "sample_characters": 99}
    task = Task(stage.storage, "card", "decided_documents", "k", "documents", {"shards": [pairing.plain()]}, settings, {}, NONE_APART, None)
    decided_documents(task)
    parts, page = Parts(Bounds(8, 2)), Page("dedup", ledger)
    parts.add(task.counts)
    _agree_reasons(parts, page)
    row = corpus(books.join([page]), Parts(Bounds(8, 2)), parts)["languages"]["en"]
    assert (row["in"], row["kept"], row["dropped"], row["quarantined"]) == (4, 2, {"too_short": 1}, {"poison": 1})
    assert row["dropped_characters"] == {"too_short": len("short")}
    ledger.accounts["en"].dropped["poison"] = ledger.accounts["en"].quarantined.pop("poison")
    with pytest.raises(LedgerError, match="poison"):
        _agree_reasons(parts, page)
