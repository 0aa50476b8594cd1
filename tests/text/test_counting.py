"""The compiled counter against the plain one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tables import utf8
from pipeline.text.counting import Counted, count_batch
from pipeline.text.normalise import normalise
from pipeline.text.word_sums import ordered, summed
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


@given(
    st.lists(st.tuples(st.text("ab▁语", min_size=1, max_size=3), st.integers(0, 2), st.integers(1, 1 << 40)), max_size=60), st.booleans()
)
@settings(max_examples=100, deadline=None)
def test_sums_of_parts_are_those_of_a_dictionary_and_the_order_is_of_the_rows_alone(
    rows: list[tuple[str, int, int]], collide: bool
) -> None:
    expected: Counter[tuple[str, int]] = Counter()
    for word, lang, count in rows:
        expected[word, lang] += count
    orders = []
    for given_rows in (rows, rows[::-1]):
        words = pa.array([word for word, _, _ in given_rows], pa.large_string())
        langs = np.array([lang for _, lang, _ in given_rows], np.int32)
        firsts, sums, hashes = summed(words, langs, np.array([count for *_, count in given_rows], np.int64))
        pairs = [(given_rows[row][0], given_rows[row][1]) for row in firsts.tolist()]
        assert dict(zip(pairs, sums.tolist(), strict=True)) == expected and len(pairs) == len(expected)
        order = ordered(words.take(pa.array(firsts)), [f"l{lang}" for _, lang in pairs], hashes >> np.uint64(62) if collide else hashes)
        orders.append([pairs[row] for row in order.tolist()])
    assert orders[0] == orders[1]
