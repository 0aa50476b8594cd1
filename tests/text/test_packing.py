"""Packing: every token once, no row too long, and the same rows as a slow sentence-by-sentence packer."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.packing import Packed, pack_sentences

Span = tuple[int, int, int]

corpora = st.lists(st.lists(st.integers(0, 14), min_size=0, max_size=6), min_size=0, max_size=12)


def pack(corpus: list[list[int]], max_tokens: int) -> Packed:
    lengths = np.array([length for document in corpus for length in document], dtype=np.int64)
    numbers = np.array([number for number, document in enumerate(corpus) for _ in document], dtype=np.int64)
    return pack_sentences(lengths, numbers, max_tokens=max_tokens)


def rows_of(packed: Packed) -> list[list[Span]]:
    spans = list(zip(packed.span_document.tolist(), packed.span_start.tolist(), packed.span_length.tolist(), strict=True))
    offsets = packed.row_offsets.tolist()
    return [spans[start:stop] for start, stop in itertools.pairwise(offsets)]


def used(row: list[Span]) -> int:
    return 1 + sum(length + 1 for _, _, length in row)


def slow_pack(corpus: list[list[int]], max_tokens: int) -> list[list[Span]]:
    """Sentence by sentence, with the cost of each written out."""
    rows: list[list[Span]] = []
    row: list[Span] = []

    def room(document: int) -> int:
        """Tokens of this document that the row still takes."""
        new_span = not row or row[-1][0] != document
        return max_tokens - (used(row) if row else 1) - int(new_span)

    def add(document: int, start: int, length: int) -> None:
        if row and row[-1][0] == document:
            row[-1] = (document, row[-1][1], row[-1][2] + length)
        else:
            row.append((document, start, length))

    def close() -> None:
        nonlocal row
        if row:
            rows.append(row)
        row = []

    for document, sentences in enumerate(corpus):
        start = 0
        for sentence in sentences:
            left = sentence
            while left:
                free = room(document)
                if left <= free:
                    add(document, start, left)
                    start, left = start + left, 0
                elif left > max_tokens - 2:  # no row can take it whole: cut it where this row is full
                    piece = max(0, free)
                    if piece:
                        add(document, start, piece)
                    start, left = start + piece, left - piece
                    close()
                else:
                    close()
    close()
    return rows


@given(corpus=corpora, max_tokens=st.integers(3, 20))
@settings(max_examples=300, deadline=None)
def test_every_token_lies_in_exactly_one_span_in_order_and_no_row_is_too_long(corpus: list[list[int]], max_tokens: int) -> None:
    packed = pack(corpus, max_tokens)
    rows = rows_of(packed)
    tokens = [(document, start + i) for row in rows for document, start, length in row for i in range(length)]
    assert tokens == [(number, i) for number, document in enumerate(corpus) for i in range(sum(document))]
    assert all(3 <= used(row) <= max_tokens for row in rows)
    assert packed.num_tokens == sum(map(used, rows))
    assert packed.fill == (sum(map(used, rows)) / (len(rows) * max_tokens) if rows else 0.0)


@given(corpus=corpora, max_tokens=st.integers(3, 20))
@settings(max_examples=300, deadline=None)
def test_the_rows_are_those_of_a_slow_packer(corpus: list[list[int]], max_tokens: int) -> None:
    assert rows_of(pack(corpus, max_tokens)) == slow_pack(corpus, max_tokens)


@given(corpus=corpora)
@settings(max_examples=200, deadline=None)
def test_only_a_sentence_longer_than_a_row_is_cut(corpus: list[list[int]]) -> None:
    max_tokens = 10
    inside = {(number, start) for number, document in enumerate(corpus) for start in _inside(document, max_tokens - 2)}
    cuts = {(document, start) for row in rows_of(pack(corpus, max_tokens)) for document, start, _ in row}
    assert not cuts & inside


def _inside(document: list[int], capacity: int) -> list[int]:
    """Token offsets within a sentence, not at its start, where it may not be cut."""
    starts = np.cumsum([0, *document])
    return [int(start) + i for start, length in zip(starts, document, strict=False) if length <= capacity for i in range(1, length)]


def test_sentences_of_one_document_merge_and_rows_cross_documents() -> None:
    assert rows_of(pack([[4, 3, 2], [2, 6]], 14)) == [[(0, 0, 9), (1, 0, 2)], [(1, 2, 6)]]


def test_a_long_sentence_fills_the_row_begun_and_leaves_its_rest_for_the_next() -> None:
    packed = pack([[3], [20], [4]], 10)
    assert rows_of(packed) == [[(0, 0, 3), (1, 0, 4)], [(1, 4, 8)], [(1, 12, 8)], [(2, 0, 4)]]


def test_text_without_sentence_ends_packs_almost_without_waste() -> None:
    packed = pack([[700]] * 50, 512)
    assert packed.fill > 0.98


def test_documents_may_have_any_rising_numbers() -> None:
    packed = pack_sentences(np.array([2, 2, 2]), np.array([7, 7, 900]), max_tokens=30)
    assert rows_of(packed) == [[(7, 0, 4), (900, 0, 2)]]


def test_nothing_packs_to_no_rows() -> None:
    packed = pack_sentences(np.array([0, 0]), np.array([0, 1]), max_tokens=8)
    assert (packed.num_rows, packed.num_tokens, packed.fill) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("lengths", "documents", "max_tokens", "message"),
    [
        ([1, 2], [0], 8, r"\(2,\) lengths for \(1,\) document numbers"),
        ([1, -2], [0, 0], 8, "a sentence has -2 tokens"),
        ([1, 2], [1, 0], 8, "document numbers fall"),
        ([1], [0], 2, "max_tokens is 2; .* at least 3"),
    ],
)
def test_wrong_input_is_refused_with_what_was_found(lengths: list[int], documents: list[int], max_tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack_sentences(np.array(lengths), np.array(documents), max_tokens=max_tokens)


def test_packing_is_fast_enough_for_a_corpus() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(5, 50, 400_000)
    documents = np.cumsum(random.random(len(lengths)) < 0.05)
    started = time.perf_counter()
    packed = pack_sentences(lengths, documents, max_tokens=512)
    assert int(packed.span_length.sum()) == int(lengths.sum())
    assert packed.fill > 0.95
    assert time.perf_counter() - started < 2.0  # 0.06 s measured; two orders would mean a lost binary search
