"""The benchmarks' own parts: text that hangs on its number alone, a brute force that finds what was planted, and figures that the head of the file lists."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.tables import utf8
from pipeline.text import minhash
from tests.benchmarks import contest, corpus, corpus_text, packing, reader, scale
from tests.benchmarks.measured import Cost


@pytest.fixture(scope="module")
def generator(data: Path) -> corpus_text.Generator:
    return corpus_text.Generator(data)


def test_any_number_of_files_and_processes_writes_the_same_documents(data: Path, tmp_path: Path) -> None:
    one = corpus_text.write(data, tmp_path / "one", 300_000, files=2, processes=1)
    two = corpus_text.write(data, tmp_path / "two", 300_000, files=6, processes=2)
    read = [b"".join(path.read_bytes() for path in sorted(made.folder.glob("*.jsonl"))) for made in (one, two)]
    assert read[0] == read[1] and len(read[0]) == one.bytes
    assert abs(one.bytes - 300_000) < 60_000
    assert [json.loads(line)["id"] for line in read[0].splitlines()] == [f"{n:08d}" for n in range(one.documents)]


def test_the_share_of_copies_is_the_same_at_every_size_and_copies_are_of_fresh_documents(generator: corpus_text.Generator) -> None:
    for first in (100, 1_000_000):
        kinds = [generator.origin(number)[0] for number in range(first, first + 4000)]
        for kind, share in (("exact", corpus_text.EXACT_SHARE), ("near", corpus_text.NEAR_SHARE)):
            assert abs(kinds.count(kind) / len(kinds) - share) < 0.015
    number = next(n for n in range(100, 1000) if generator.origin(n)[0] == "exact")
    of = generator.origin(number)[1]
    assert of < number and generator.origin(of) == ("fresh", of)
    assert generator.document(number) == generator.document(of)


def test_new_words_come_at_the_fitted_rate(generator: corpus_text.Generator) -> None:
    words = [f"w{int(n**0.5)}" for n in range(20_000)]  # V(n) is about n^0.5
    k, beta = corpus_text.heaps(words)
    assert abs(beta - 0.5) < 0.03 and 0.7 < k < 1.4
    pool = generator.pool_of("en")
    known = set(pool.words)
    share = {}
    for first in (0, 3_000_000):
        drawn = [
            word
            for n in range(first, first + 4000)
            if generator.origin(n)[0] == "fresh" and generator.document(n)[0] == "en"
            for word in generator.document(n)[1].split()
        ]
        share[first] = sum(word not in known for word in drawn) / len(drawn)
    assert share[0] > 1.5 * share[3_000_000] > 0


def test_the_slope_of_a_straight_line_is_one() -> None:
    assert scale.slope([(math.log(n), math.log(3 * n)) for n in (1, 4, 16)]) == pytest.approx(1)


@pytest.mark.parametrize("benchmark", [corpus, packing, reader])
def test_the_head_of_a_benchmark_lists_every_key(benchmark: Any) -> None:
    assert all(key in benchmark.__doc__ for key in benchmark.KEYS)


def test_the_smallest_corpus_holds_an_exact_and_a_near_copy(data: Path, tmp_path: Path) -> None:
    made = corpus_text.smallest(data, tmp_path)
    read = [json.loads(line) for path in sorted(tmp_path.glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    assert (len(read), made.documents, made.files) == (6, 6, 2) and sum(path.stat().st_size for path in tmp_path.iterdir()) == made.bytes
    different = sorted({row["text"] for row in read})
    assert len(different) == 5
    bands, _ = minhash.band_hashes(*utf8(pa.array(different, pa.large_string())))
    alike = [(a, b) for a in range(5) for b in range(a) if (bands[a] == bands[b]).any()]
    assert len(alike) == 1


def _cost(seconds: float) -> Cost:
    return Cost(seconds, 0, 0, seconds, "")


@pytest.mark.parametrize(
    ("startups", "runs", "apart"),
    [
        ([10.0, 10.1], [40.0], 30.0),  # long: once
        ([10.0, 12.0, 9.0, 9.1], [50.0], 41.0),
        ([10.0, 10.1, 8.0, 8.1], [39.0, 20.0, 30.0, 20.1], 12.0),
        ([10.0] * 6, [39.0, 30.0, 28.0, 26.0, 24.0, 22.0], 12.0),
    ],
)
def test_start_ups_and_short_runs_are_repeated_in_turn_until_two_agree(startups: list[float], runs: list[float], apart: float) -> None:
    given = iter(startups), iter(runs)
    found = contest.side("x", [], *(lambda times=times: _cost(next(times)) for times in given))
    assert found.seconds == found.cpu_seconds == apart
    assert [next(times, None) for times in given] == [None, None]
