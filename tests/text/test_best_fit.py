"""Best-fit and concatenating packing: every token once, nothing cut without need, and the rows of slow packers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.best_fit import pack_best_fit
from pipeline.text.concatenate import pack_concatenated
from pipeline.text.packing import Packed

Span = tuple[int, int, int]
corpora = st.lists(st.integers(0, 40), max_size=30)
METHODS = [pack_best_fit, pack_concatenated]


def rows_of(packed: Packed) -> list[list[Span]]:
    spans = list(zip(packed.span_document.tolist(), packed.span_start.tolist(), packed.span_length.tolist(), strict=True))
    return [spans[start:stop] for start, stop in itertools.pairwise(packed.row_offsets.tolist())]


def used(row: list[Span]) -> int:
    return 1 + sum(length + 1 for _, _, length in row)


def slow_best_fit(lengths: list[int], max_tokens: int) -> list[list[Span]]:
    capacity = max_tokens - 2
    pieces = [(d, at, min(capacity, length - at)) for d, length in enumerate(lengths) for at in range(0, length, capacity)]
    rows: list[list[Span]] = []
    free: list[tuple[int, int]] = []  # (free places, when the row came to have them), one a row
    for number, piece in enumerate(sorted(pieces, key=lambda piece: -piece[2])):
        fitting = [(left, -since, row) for row, (left, since) in enumerate(free) if left >= piece[2] + 1]
        if fitting:
            row = min(fitting)[2]
        else:
            row = len(rows)
            rows.append([])
            free.append((max_tokens - 1, 0))
        rows[row].append(piece)
        free[row] = (free[row][0] - piece[2] - 1, number)
    return rows


def slow_concatenate(lengths: list[int], max_tokens: int) -> list[list[Span]]:
    rows: list[list[Span]] = []
    for document, length in enumerate(lengths):
        at = 0
        while at < length:
            if not rows or max_tokens - used(rows[-1]) < 2:
                rows.append([])
            size = min(length - at, max_tokens - used(rows[-1]) - 1)
            rows[-1].append((document, at, size))
            at += size
    return rows


@pytest.mark.parametrize("pack", METHODS)
@given(lengths=corpora, max_tokens=st.integers(3, 150))
@settings(max_examples=200, deadline=None)
def test_every_token_lies_in_exactly_one_span_and_no_row_is_too_long(pack, lengths: list[int], max_tokens: int) -> None:  # type: ignore[no-untyped-def]
    packed = pack(np.array(lengths, np.int64), max_tokens=max_tokens)
    rows = rows_of(packed)
    tokens = sorted((document, start + i) for row in rows for document, start, length in row for i in range(length))
    assert tokens == [(number, i) for number, length in enumerate(lengths) for i in range(length)]
    assert all(3 <= used(row) <= max_tokens for row in rows)
    assert packed.num_tokens == sum(map(used, rows))


@given(lengths=corpora, max_tokens=st.integers(3, 150))
@settings(max_examples=300, deadline=None)
def test_best_fit_gives_the_rows_of_a_slow_packer_and_cuts_only_what_is_longer_than_a_row(lengths: list[int], max_tokens: int) -> None:
    packed = pack_best_fit(np.array(lengths, np.int64), max_tokens=max_tokens)
    assert rows_of(packed) == slow_best_fit(lengths, max_tokens)
    assert packed.num_cut_documents == sum(length > max_tokens - 2 for length in lengths)


@given(lengths=corpora, max_tokens=st.integers(3, 150))
@settings(max_examples=300, deadline=None)
def test_concatenation_gives_the_rows_of_a_slow_packer(lengths: list[int], max_tokens: int) -> None:
    packed = pack_concatenated(np.array(lengths, np.int64), max_tokens=max_tokens)
    assert rows_of(packed) == slow_concatenate(lengths, max_tokens)


@pytest.mark.parametrize("max_tokens", [512, 2048])
def test_best_fit_fills_rows_with_documents_of_all_lengths(max_tokens: int) -> None:
    lengths = np.random.default_rng(1).geometric(1 / 300, 20_000)
    packed = pack_best_fit(lengths, max_tokens=max_tokens)
    assert packed.fill > 0.99
    assert packed.num_cut_documents == int((lengths > max_tokens - 2).sum())
    assert pack_concatenated(lengths, max_tokens=max_tokens).num_cut_documents > 2 * packed.num_cut_documents


@pytest.mark.parametrize("pack", METHODS)
def test_wrong_lengths_are_refused_with_what_was_found(pack) -> None:  # type: ignore[no-untyped-def]
    for lengths, max_tokens, message in (
        ([1, -2], 8, "a document has -2 tokens"),
        ([1], 2, "max_tokens is 2; .* at least 3"),
        ([[1]], 8, "shape"),
    ):
        with pytest.raises(ValueError, match=message):
            pack(np.array(lengths), max_tokens=max_tokens)
