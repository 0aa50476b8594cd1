"""True similarity of texts by their shingles, against sets of n-grams."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tables import utf8
from pipeline.text import minhash, shingles

LETTERS = st.lists(st.sampled_from("abcde"), max_size=14).map(" ".join)


def batch(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return utf8(pa.array(texts, pa.large_string()))


def similarity(one: str, other: str) -> int:
    values, starts = shingles.distinct_shingles(*batch([one, other]))
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
