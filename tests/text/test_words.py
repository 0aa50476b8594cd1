"""Words for counting."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.normalise import normalise
from pipeline.text.words import MAX_SPACED_CHARACTERS, count_words, split_words


@settings(deadline=None)
@given(st.lists(st.text(max_size=100) | st.text("我们กា་ab, ", max_size=300)).map(" ".join).map(normalise))
def test_the_words_joined_give_the_text_back_and_none_is_long(text: str) -> None:
    words = split_words(text)
    assert "".join(words) == "".join("▁" + word for word in text.split())
    assert all(1 <= len(word) <= MAX_SPACED_CHARACTERS + 1 for word in words)
    assert all("▁" not in word[1:] for word in words)


def test_a_run_without_spaces_is_cut_by_script_and_length_and_continues_without_the_space_mark() -> None:
    assert split_words("raw text") == ["▁raw", "▁text"]
    assert split_words("我们的语言" * 7 + ",ok") == ["▁" + "我们的语言" * 6 + "我们", "的语言", ",ok"]
    assert split_words("ก" * 70) == ["▁" + "ก" * 64, "ก" * 6]
    assert split_words("x" * 70) == ["▁" + "x" * 64, "x" * 6]
    assert split_words("한국어를") == ["▁한국어를"]


def test_distinct_words_of_repeated_unspaced_text_stay_few() -> None:
    assert len(count_words(["我们的语言" * 1_000])) <= 10


def test_counts_are_sums_over_texts() -> None:
    assert count_words(["a b a", "b\nc"]) == {"▁a": 2, "▁b": 2, "▁c": 1}
    assert count_words([]) == {}
