"""The benchmarks' own parts: text that hangs on its number alone, a brute force that finds what was planted, and figures that the head of the file lists."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import corpus, corpus_text, packing, reader, scale


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
