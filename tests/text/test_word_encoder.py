"""Compiled encoding of words: the ids of sentencepiece, for words of any length and any characters, or no encoder at all."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tables import utf8
from pipeline.text import word_encoder
from pipeline.text.tokenizer import SPACE, Tokenizer, model_bytes, train
from pipeline.text.unigram import train_unigram
from pipeline.text.word_encoder import WordEncoder


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    source = random.Random(4)
    words = {"▁" + "".join(source.choices("abcaab日本é", k=source.randint(1, 9))): source.randint(1, 30) for _ in range(400)}
    return Tokenizer(train(words, size=500, character_coverage=1.0))


def agree(tokenizer: Tokenizer, words: list[str]) -> None:
    found = WordEncoder.of(tokenizer)
    assert found is not None
    ids, lengths = found.encode(*utf8(pa.array(words, pa.large_string())))
    rows = tokenizer._words_processor().encode(words, out_type=int)
    assert lengths.tolist() == [len(row) for row in rows]
    assert ids.tolist() == [index for row in rows for index in row] and ids.dtype == tokenizer.dtype


@given(st.lists(st.text(st.sampled_from("aabc日本é▁zЖ🙂\u0301<s>0"), max_size=60), min_size=1, max_size=6), st.sampled_from([0, 3, 48]))
@settings(max_examples=150, deadline=None)
def test_the_ids_are_those_of_sentencepiece(tokenizer: Tokenizer, words: list[str], short: int) -> None:
    agree(tokenizer, words)  # by looking through, but for the longest
    heap = word_encoder._by_heap, word_encoder._look_through
    symbols = [[tokenizer.id_of(c) if c in "aabc日本é▁" else -1 for c in word] for word in words if word]
    encoder = WordEncoder.of(tokenizer)
    assert encoder is not None
    for own in symbols:
        results = []
        for merge in heap:
            given_symbols, pairs = np.array(own, np.int64), np.zeros(len(own), np.int64)
            links = (np.zeros(len(own), np.int32), np.zeros(len(own), np.int32)) if merge is word_encoder._by_heap else ()
            room = (np.zeros(3 * len(own) + 1, np.int64),) if links else ()
            left = merge(given_symbols, pairs, *links, len(own), encoder._keys, encoder._joined, encoder._ranks, *room)
            results.append(given_symbols[:left].tolist())
        assert results[0] == results[1]


def test_words_as_long_as_a_book_do_not_take_for_ever(tokenizer: Tokenizer) -> None:
    agree(tokenizer, ["ab" * 50_000, "a" * 30_000, "日本é" * 20_000 + "🙂" * 40, ""])


def test_equal_scores_are_merged_from_the_left() -> None:
    pieces = [("▁", 0.0), ("a", 0.0), ("b", 0.0), ("ab", -1.0), ("ba", -1.0), ("aba", -2.0), ("bab", -2.0)]
    tokenizer = Tokenizer(model_bytes("bpe", pieces, byte_fallback=True, character_coverage=1.0, split_digits=False))
    agree(tokenizer, ["abab", "bababa", "▁abaabab", "a", "bb"])


def test_a_part_of_a_column_and_the_mark_before_each_word(tokenizer: Tokenizer) -> None:
    column = pa.array(["zz", "ab", "", "caab"], pa.large_string()).slice(1)
    found = WordEncoder.of(tokenizer)
    assert found is not None
    ids, lengths = found.encode(*utf8(column), SPACE)
    rows = tokenizer.encode(["ab", "caab"])
    assert lengths.tolist() == [len(rows[0]), 1, len(rows[1])]
    assert ids.tolist() == [*rows[0].tolist(), tokenizer.id_of(SPACE), *rows[1].tolist()]


def test_vocabularies_of_another_kind_have_no_encoder() -> None:
    words = {"▁abc": 5, "▁abd": 4, "cab": 3, "▁b": 2}
    assert WordEncoder.of(Tokenizer(train(words, size=16, byte_fallback=False))) is None  # an unknown character would be `<unk>`
    without_a = [("▁", 0.0), ("b", 0.0), ("ab", -1.0)]
    assert WordEncoder.of(Tokenizer(model_bytes("bpe", without_a, byte_fallback=True, character_coverage=1.0, split_digits=False))) is None
    part = (pa.array(list(words), pa.large_string()), np.array(list(words.values()), np.int64))
    unigram = train_unigram(lambda: [part], size=268, draws=1000, seed=1)
    assert WordEncoder.of(Tokenizer(unigram)) is None
