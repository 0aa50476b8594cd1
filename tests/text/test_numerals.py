"""Digits of a text as packed counts."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tables import utf8
from pipeline.text.numerals import numerals, similarity, unpacked


def counted(*texts: str) -> np.ndarray:
    return numerals(*utf8(pa.array(texts, pa.large_string())))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(categories=("Nd", "Nl", "L", "Z", "P")), max_size=30), min_size=1, max_size=5))
def test_counts_are_those_of_every_decimal_digit_but_zero(texts: list[str]) -> None:
    expected = [[sum(unicodedata.decimal(c, 0) == digit for c in text) for digit in range(1, 10)] for text in texts]
    assert unpacked(counted(*texts)).tolist() == expected


def test_a_digit_that_stands_very_often_is_counted_up_to_127() -> None:
    assert unpacked(counted("9" * 500 + "1"))[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 127]


@pytest.mark.parametrize(
    ("a", "b", "digits", "alike"),
    [
        ("1,250 on 3 May", "3. Mai: 1.250", 4, 10_000),
        ("१२ घर", "12 houses", 2, 10_000),
        ("85 mph", "137 km/h", 3, 0),
        ("none", "keine", 0, 10_000),
        ("12 of 34", "12", 4, 6666),
    ],
)
def test_similarity_is_the_share_of_digits_that_both_hold(a: str, b: str, digits: int, alike: int) -> None:
    most, share = similarity(counted(a), counted(b))
    assert (most[0], share[0]) == (digits, alike)
