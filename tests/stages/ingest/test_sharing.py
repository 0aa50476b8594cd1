"""How files are cut into units: a large file, of whatever kind that can be cut, is shared by all workers, however uneven the corpus."""

from __future__ import annotations

import hashlib
import heapq
from typing import Any

import pytest
from pydantic import TypeAdapter

from pipeline.sources import Source
from pipeline.units import Unit, batches
from stages.ingest import AnySource, Config
from stages.ingest.work import _File, _units


def units(source: dict[str, Any], sizes: list[int]) -> list[Unit]:
    """The units of files of these sizes, with the default settings."""
    config = Config(sources=(TypeAdapter(AnySource).validate_python(source),))
    files = [
        _File(Source(f"/d/{n}", f"0/{n:04}{source['path'][1:]}", "en", size, ""), hashlib.sha256(str(n).encode()).hexdigest())
        for n, size in enumerate(sizes)
    ]
    return list(_units(config, 0, files, ("en",)))


def busy(made: list[Unit], workers: int) -> float:
    """The share of their time that workers work, if each takes the next batch when it is free and a byte takes the same time everywhere."""
    todo = {str(number): unit for number, unit in enumerate(made)}
    ends = [0] * workers
    for batch in batches(todo, workers):
        heapq.heappush(ends, heapq.heappop(ends) + sum(todo[key].size for key in batch))
    return sum(ends) / workers / max(ends)


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet", "tsv-pairs", "tmx"])
@pytest.mark.parametrize("total", [64 << 20, 1 << 30])
def test_a_file_with_half_of_all_bytes_leaves_no_worker_idle(kind: str, total: int) -> None:
    source = {"kind": kind, "path": "*.x", **({"lang_a": "en", "lang_b": "de"} if kind == "tsv-pairs" else {})}
    for small in (20, 2000):
        sizes = [total // 2 // small] * small
        for place in (0, small):  # the large file comes first, or last
            made = units(source, [*sizes[:place], total // 2, *sizes[place:]])
            assert sum(unit.size for unit in made) == pytest.approx(total, rel=0.01)
            assert busy(made, 2) > 0.95, (kind, total, small)


def test_what_cannot_be_cut_comes_first() -> None:
    made = units({"kind": "text", "path": "*.xz"}, [1 << 20] * 50 + [60 << 20])
    todo = {str(number): unit for number, unit in enumerate(made)}
    first = batches(todo, 2)[0]
    assert [todo[key].size for key in first] == [60 << 20]
