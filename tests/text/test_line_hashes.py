"""Hashes of lines and paragraphs, against slow references."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tables import utf8
from pipeline.text import line_hashes


def batch(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return utf8(pa.array(texts, pa.large_string()))


def test_lines_are_equal_that_differ_in_case_digits_and_punctuation_only() -> None:
    def line(text: str) -> tuple[int, int]:
        _, _, first, second, lines = line_hashes.line_hashes(*batch([text]), 1)
        assert lines.tolist() == [1]
        return int(first[0]), int(second[0])

    assert line("Page 12 of 99!") == line("page 34 of 00") == line("page ٣٤ of 00")
    assert line("a - b") == line("a b") != line("ab")
    assert line("कि") != line("का") and line("กา") != line("กี")


def test_lines_are_numbered_and_short_ones_left_out() -> None:
    text_of, line_of, _, _, lines = line_hashes.line_hashes(*batch(["long enough\nno\n\nlong again", "", "x" * 9]), 5)
    assert list(zip(text_of.tolist(), line_of.tolist(), strict=True)) == [(0, 0), (0, 3), (2, 0)]
    assert lines.tolist() == [4, 1, 1]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text("a\né\r人", max_size=9), max_size=5))
def test_lines_are_one_more_than_line_feeds(texts: list[str]) -> None:
    assert line_hashes.line_counts(*batch(["", *texts])[:2]).tolist() == [1, *(text.count("\n") + 1 for text in texts)]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["", "a", "b c", "B, C!", "long line"]), max_size=9))
def test_paragraphs_are_runs_of_lines_between_empty_ones(lines: list[str]) -> None:
    text = "\n".join(lines)
    text_of, line_of, spans, first, second, counts = line_hashes.paragraph_hashes(*batch(["x", text]), 2)
    starts = [n for n, line in enumerate(lines) if line and (n == 0 or not lines[n - 1])]
    bodies = [lines[n : ([*lines, ""]).index("", n)] for n in starts]
    kept = [(n, body) for n, body in zip(starts, bodies, strict=True) if sum(map(len, body)) >= 2]
    assert counts.tolist() == [1, len(starts)] and text_of.tolist() == [1] * len(kept)
    assert line_of.tolist() == [n for n, _ in kept]
    assert spans.tolist() == [len(body) + (n + len(body) < len(lines)) for n, body in kept]
    plain = [" ".join(body).lower().translate({44: None, 33: None}) for _, body in kept]
    hashes = list(zip(first.tolist(), second.tolist(), strict=True))
    assert len(set(hashes)) == len(set(plain)) == len(set(zip(plain, hashes, strict=True)))
