"""Measures for the quality rules."""

from dataclasses import astuple

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.measures import measure
from pipeline.text.normalise import normalise


def test_a_small_text_has_the_figures_counted_by_hand() -> None:
    found = measure("a b a b\na b a b\n#x 12 …", spaced=True)
    assert (found.characters, found.words, found.lines) == (23, 11, 3)
    assert found.duplicate_line_share == 3_333
    assert found.duplicate_line_characters_share == 7 * 10_000 // 21
    assert found.top_2gram_share == 4 * 3 * 10_000 // 23  # "a b" four times, three characters each
    assert found.letters_share == 9 * 10_000 // 13 and found.digits_share == 2 * 10_000 // 13
    assert found.symbol_word_ratio == 10_000 // 11
    assert found.mean_word_length == 13 * 100 // 11


def test_repetition_is_seen_in_scripts_without_spaces() -> None:
    assert measure("我们的语言" * 10, spaced=False).top_2gram_share > 5_000
    assert measure("人人生而自由在尊严和权利上一律平等", spaced=False).top_2gram_share == 0


def test_combining_marks_are_part_of_letters() -> None:
    assert measure("नमस्ते दुनिया", spaced=True).letters_share == 10_000


@settings(deadline=None)
@given(st.text(max_size=80).map(normalise), st.booleans())
def test_every_figure_is_a_whole_number_in_its_range(text: str, spaced: bool) -> None:
    found = measure(text, spaced)
    assert all(type(figure) is int and figure >= 0 for figure in astuple(found))
    assert max(found.duplicate_line_share, found.duplicate_line_characters_share, found.top_2gram_share) <= 10_000
    assert found.letters_share + found.digits_share <= 10_000
    if not text:
        assert set(astuple(found)) == {0}
