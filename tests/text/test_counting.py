"""The compiled counter against the plain one."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tables import utf8
from pipeline.text.counting import Counted, count_batch
from pipeline.text.normalise import normalise
from pipeline.text.word_sums import merged
from pipeline.text.words import count_words

mixed = st.lists(st.text(max_size=90) | st.text("我们กា་ab, \n፡ሀ", max_size=300) | st.just("x" * 70), max_size=6).map(" ".join)


def counted(texts: list[str], langs: list[int]) -> Counted:
    return count_batch(*utf8(pa.array(texts, pa.large_string())), np.array(langs, np.int32))


def by_language(found: Counted) -> dict[int, dict[str, int]]:
    held: dict[int, dict[str, int]] = {}
    for word, lang, count in zip(found.words.to_pylist(), found.languages.tolist(), found.counts.tolist(), strict=True):
        assert word not in held.setdefault(lang, {}), "a word stands twice"
        held[lang][word] = count
    return held


@given(st.lists(st.tuples(mixed.map(normalise), st.integers(0, 2)), max_size=8))
@settings(max_examples=200, deadline=None)
def test_the_counts_are_those_of_the_plain_counter_for_each_language(corpus: list[tuple[str, int]]) -> None:
    expected: dict[int, Counter[str]] = {}
    for text, lang in corpus:
        for word, count in count_words([text]).items():
            expected.setdefault(lang, Counter())[word] += count
    assert by_language(counted([text for text, _ in corpus], [lang for _, lang in corpus])) == expected


def test_a_table_that_grows_loses_no_word() -> None:
    texts = [" ".join(f"w{number * 7919 % 30_011}" for number in range(start, start + 40_000)) for start in (0, 20_000)]
    assert by_language(counted(texts, [0, 0]))[0] == count_words(texts)


def test_hashes_are_of_the_word_alone_and_a_slice_of_a_column_counts_as_a_copy_does() -> None:
    found = counted(["one two one", "two", "一二"], [0, 1, 1])
    hashes = dict(zip(zip(found.words.to_pylist(), found.languages.tolist(), strict=True), found.hashes.tolist(), strict=True))
    assert hashes["▁two", 0] == hashes["▁two", 1] != hashes["▁one", 0]
    column = pa.array(["skipped", "b a b"], pa.large_string()).slice(1)
    assert by_language(count_batch(*utf8(column), np.zeros(1, np.int32))) == {0: {"▁b": 2, "▁a": 1}}
    assert len(set(found.hashes.tolist())) == 3


ROWS = st.lists(st.tuples(st.text("ab▁语", min_size=1, max_size=3), st.integers(0, 2), st.integers(1, 1 << 40)), max_size=60)


def columns_of(rows: list[tuple[str, int, int]]) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    words = pa.array([word for word, _, _ in rows], pa.large_string())
    return words, np.array([lang for _, lang, _ in rows], np.int32), np.array([count for *_, count in rows], np.int64)


@given(ROWS, st.integers(1, 5), st.sampled_from([1, 3, 1 << 62, (1 << 64) - 1]))
@settings(max_examples=200, deadline=None)
def test_runs_merge_to_the_sums_in_order_of_hash_word_and_language(rows: list[tuple[str, int, int]], runs: int, hashes: int) -> None:
    """Also where different words share a hash."""

    def hash_of(word: str) -> int:
        return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big") % hashes

    expected: Counter[tuple[int, bytes, int]] = Counter()
    for word, lang, count in rows:
        expected[hash_of(word), word.encode(), lang] += count
    cut = [sorted(rows[number::runs], key=lambda row: hash_of(row[0]) >> 48) for number in range(runs)]
    flat = [row for run in cut for row in run]
    own = np.array([hash_of(row[0]) for row in flat], np.uint64)
    firsts, sums = merged(*columns_of(flat), own, np.cumsum([0, *map(len, cut)], dtype=np.int64))
    found = [(int(own[row]), flat[row][0].encode(), flat[row][1]) for row in firsts.tolist()]
    assert found == sorted(expected) and sums.tolist() == [expected[key] for key in found]


def test_many_rows_of_one_hash_and_of_hashes_at_the_ends_of_the_range_merge() -> None:
    words = [f"w{number}" for number in range(20_000)]
    for hashes in (
        np.zeros(40_000, np.uint64),
        np.tile(np.linspace(0, 1 << 63, 20_000).astype(np.uint64) * np.uint64(2) - np.uint64(1), 2),
    ):
        order = np.argsort(hashes[:20_000], kind="stable")
        flat = [(words[row % 50 if not hashes.any() else row], 0, 1) for row in [*order.tolist(), *order.tolist()]]
        firsts, sums = merged(*columns_of(flat), np.concatenate([hashes[:20_000][order]] * 2), np.array([0, 20_000, 40_000]))
        assert sums.sum() == 40_000 and len(firsts) == (20_000 if hashes.any() else 50)
