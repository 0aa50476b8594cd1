"""MinHash signatures, true similarity, n-grams of evaluation text and hashes of lines, against slow references."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tables import utf8
from pipeline.text import minhash

LETTERS = st.lists(st.sampled_from("abcde"), max_size=14).map(" ".join)


def batch(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return utf8(pa.array(texts, pa.large_string()))


def similarity(one: str, other: str) -> int:
    values, starts = minhash.distinct_shingles(*batch([one, other]))
    return int(minhash.jaccard(values, starts, np.array([[0, 1]]))[0])


def _grams(text: str, n: int) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)} or ({tuple(words)} if words else set())


@settings(deadline=None, max_examples=200)
@given(LETTERS, LETTERS)
def test_similarity_is_that_of_the_sets_of_5_grams(one: str, other: str) -> None:
    left, right = _grams(one, 5), _grams(other, 5)
    assert similarity(one, other) == (len(left & right) * 10_000 // len(left | right) if left | right else 0)


def test_case_and_punctuation_do_not_count_and_marks_do() -> None:
    assert similarity("The quick, brown FOX jumps over it", "the quick brown fox (jumps) over it!") == 10_000
    assert similarity("कि का के को कु", "क क क क क") == 0
    assert similarity("", "...") == 0


def test_unspaced_text_is_compared_by_characters_whatever_its_label() -> None:
    text = "人人生而自由在尊严和权利上一律平等他们赋有理性和良心并应以兄弟关系的精神相对待"
    assert similarity(text, text.replace("精神", "心神")) > 6_000
    assert similarity(text, text[::-1]) == 0
    thai = "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิต่างมีเหตุผลและมโนธรรมและควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ"
    assert similarity(thai, thai.replace("ภราดรภาพ", "ความรัก")) > 7_000


def test_candidates_hold_nearly_all_pairs_that_are_alike_and_few_that_are_not() -> None:
    draw = random.Random(7)
    words = ["".join(draw.choices("abcdefghijklmnop", k=5)) for _ in range(3_000)]
    originals = [draw.choices(words, k=200) for _ in range(150)]
    texts = [" ".join(text) for text in originals]
    for text in originals:
        copy = list(text)
        for place in draw.sample(range(200), 4):  # four new words touch up to twenty of 196 shingles: similarity about .82
            copy[place] = draw.choice(words)
        texts.append(" ".join(copy))
    bands, _ = minhash.band_hashes(*batch(texts))
    shared = (bands[:150] == bands[150:]).any(axis=1)
    assert shared.mean() > 0.85
    others = (bands[:150] == np.roll(bands[150:], 1, axis=0)).any(axis=1)
    assert not others.any()


@settings(deadline=None, max_examples=100)
@given(st.lists(LETTERS, min_size=1, max_size=4), LETTERS, st.integers(1, 4))
def test_a_text_is_contaminated_exactly_when_it_shares_a_run_of_words(evaluation: list[str], text: str, n: int) -> None:
    def grams(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    hashes, lengths = minhash.ngram_hashes(*batch(evaluation), n)
    held = set().union(*(grams(each.split()) for each in evaluation))
    assert len(hashes) == len(held)
    assert minhash.shares_ngram(*batch([text]), hashes, lengths).tolist() == [bool(held & grams(text.split()))]


def test_an_evaluation_text_without_spaces_needs_so_many_words_worth_of_characters() -> None:
    text = "人人生而自由在尊严和权利上一律平等他们赋有理性和良心并应以兄弟关系的精神相对待"
    hashes, lengths = minhash.ngram_hashes(*batch([text, "one two three four five"]), 5)
    assert lengths == [5, 10]
    found = minhash.shares_ngram(*batch([text[3:20], text[3:12], "say one two three four five", "one two three four"]), hashes, lengths)
    assert found.tolist() == [True, False, True, False]


def test_lines_are_equal_that_differ_in_case_digits_and_punctuation_only() -> None:
    def line(text: str) -> tuple[int, int]:
        _, _, first, second, lines = minhash.line_hashes(*batch([text]), 1)
        assert lines.tolist() == [1]
        return int(first[0]), int(second[0])

    assert line("Page 12 of 99!") == line("page 34 of 00") == line("page ٣٤ of 00")
    assert line("a - b") == line("a b") != line("ab")
    assert line("कि") != line("का") and line("กา") != line("กี")


def test_lines_are_numbered_and_short_ones_left_out() -> None:
    text_of, line_of, _, _, lines = minhash.line_hashes(*batch(["long enough\nno\n\nlong again", "", "x" * 9]), 5)
    assert list(zip(text_of.tolist(), line_of.tolist(), strict=True)) == [(0, 0), (0, 3), (2, 0)]
    assert lines.tolist() == [4, 1, 1]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["", "a", "b c", "B, C!", "long line"]), max_size=9))
def test_paragraphs_are_runs_of_lines_between_empty_ones(lines: list[str]) -> None:
    text = "\n".join(lines)
    text_of, line_of, spans, first, second, counts = minhash.paragraph_hashes(*batch(["x", text]), 2)
    starts = [n for n, line in enumerate(lines) if line and (n == 0 or not lines[n - 1])]
    bodies = [lines[n : ([*lines, ""]).index("", n)] for n in starts]
    kept = [(n, body) for n, body in zip(starts, bodies, strict=True) if sum(map(len, body)) >= 2]
    assert counts.tolist() == [1, len(starts)] and text_of.tolist() == [1] * len(kept)
    assert line_of.tolist() == [n for n, _ in kept]
    assert spans.tolist() == [len(body) + (n + len(body) < len(lines)) for n, body in kept]
    plain = [" ".join(body).lower().translate({44: None, 33: None}) for _, body in kept]
    hashes = list(zip(first.tolist(), second.tolist(), strict=True))
    assert len(set(hashes)) == len(set(plain)) == len(set(zip(plain, hashes, strict=True)))


def test_edges_given_in_parts_make_the_same_components() -> None:
    draw = np.random.default_rng(3)
    edges = draw.integers(0, 400, (300, 2))
    root = np.arange(400, dtype=np.int32)
    for part in (edges[:100], edges[100:]):
        minhash.unite(root, part[:, 0].copy(), part[:, 1].copy())
    minhash.name_roots(root)
    assert root.tolist() == minhash.components(400, edges).tolist()


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=15))
def test_components_are_named_by_their_smallest_node(nodes: int, drawn: list[tuple[int, int]]) -> None:
    edges = [(a, b) for a, b in drawn if a < nodes and b < nodes]
    found = minhash.components(nodes, np.array(edges, np.int64).reshape(-1, 2)).tolist()
    wanted = list(range(nodes))
    for _ in range(nodes):
        for a, b in edges:
            wanted[a] = wanted[b] = min(wanted[a], wanted[b])
    assert found == wanted


@pytest.mark.parametrize("text", ["", "...", "a", "ab cd"])
def test_short_texts_have_one_shingle_or_none(text: str) -> None:
    _, counts = minhash.band_hashes(*batch([text]))
    assert counts.tolist() == [1 if any(map(str.isalnum, text)) else 0]
