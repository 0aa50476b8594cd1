"""N-grams of evaluation text, against sets of tuples."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tables import utf8
from pipeline.text import ngrams

LETTERS = st.lists(st.sampled_from("abcde"), max_size=14).map(" ".join)


def batch(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return utf8(pa.array(texts, pa.large_string()))


@settings(deadline=None, max_examples=100)
@given(st.lists(LETTERS, min_size=1, max_size=4), LETTERS, st.integers(1, 4))
def test_a_text_is_contaminated_exactly_when_it_shares_a_run_of_words(evaluation: list[str], text: str, n: int) -> None:
    def grams(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    hashes, lengths = ngrams.ngram_hashes(*batch(evaluation), n)
    held = set().union(*(grams(each.split()) for each in evaluation))
    assert len(hashes) == len(held)
    assert ngrams.shares_ngram(*batch([text]), hashes, lengths).tolist() == [bool(held & grams(text.split()))]


def test_an_evaluation_text_without_spaces_needs_so_many_words_worth_of_characters() -> None:
    text = "人人生而自由在尊严和权利上一律平等他们赋有理性和良心并应以兄弟关系的精神相对待"
    hashes, lengths = ngrams.ngram_hashes(*batch([text, "one two three four five"]), 5)
    assert lengths == [5, 10]
    found = ngrams.shares_ngram(*batch([text[3:20], text[3:12], "say one two three four five", "one two three four"]), hashes, lengths)
    assert found.tolist() == [True, False, True, False]
