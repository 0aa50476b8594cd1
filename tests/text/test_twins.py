"""Words and characters that tell close relatives apart."""

from pathlib import Path

import pytest

from pipeline.text import twins
from pipeline.text.twins import by_words, chinese


@pytest.mark.parametrize(
    ("group", "text", "lang"),
    [
        ("bs", "Prošle sedmice historičari su rekli da je tačno hiljadu ljudi bilo na univerzitetu.", "bs"),
        ("bs", "Prošli tjedan povjesničari su rekli da je točno tisuću ljudi bilo na sveučilištu.", "hr"),
        ("id", "Dia berkata bahwa mobil itu berbeda karena universitas Inggris", "id"),
        ("id", "Dia berkata bahawa kereta itu berbeza kerana universiti Inggeris", "ms"),
        ("bs", "tačno točno", None),
        ("bs", "ljekar", "bs"),
        ("bs", "ljekarna", "hr"),
        ("bs", "", None),
        ("id", "yang itu", None),
    ],
)
def test_words_of_one_twin_name_it_and_a_draw_names_none(group: str, text: str, lang: str | None) -> None:
    assert by_words(group, text) == lang


@pytest.mark.parametrize(("text", "lang"), [("这个国家", "zh-Hans"), ("這個國家", "zh-Hant"), ("人人", None), ("", None)])
def test_characters_tell_the_two_writings_of_chinese_apart(text: str, lang: str | None) -> None:
    assert chinese(text) == lang


def test_no_word_of_the_list_is_counted_twice_or_for_two_languages() -> None:
    listed = [line.split("\t") for line in Path(twins.__file__).with_name("twins.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    for group in {group for group, _, _ in listed}:
        words = [word for named, _, its in listed if named == group for word in its.split()]
        plain = [word.rstrip("*") for word in words]
        assert len(plain) == len(set(plain))
