"""Words and characters that tell close relatives apart."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
        ("bs", "neko nekome NEKO", "bs"),
        ("bs", "\u3000hiljada\u00a0x tisuća tisuću", "hr"),
        ("id", "yang itu", None),
    ],
)
def test_words_of_one_twin_name_it_and_a_draw_names_none(group: str, text: str, lang: str | None) -> None:
    assert by_words(group, [text]) == [lang]


@pytest.mark.parametrize(("text", "lang"), [("这个国家", "zh-Hans"), ("這個國家", "zh-Hant"), ("人人", None), ("", None)])
def test_characters_tell_the_two_writings_of_chinese_apart(text: str, lang: str | None) -> None:
    assert chinese([text]) == [lang]


def test_no_word_of_the_list_is_counted_twice_or_for_two_languages() -> None:
    listed = [line.split("\t") for line in Path(twins.__file__).with_name("twins.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    for group in {group for group, _, _ in listed}:
        words = [word for named, _, its in listed if named == group for word in its.split()]
        plain = [word.rstrip("*") for word in words]
        assert len(plain) == len(set(plain))


def slow_by_words(group: str, text: str) -> str | None:
    """What `by_words` says, said word by word."""
    listed: list[tuple[str, str]] = []
    for line in Path(twins.__file__).with_name("twins.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        named, code, words = line.split("\t")
        listed += [(word, code) for word in words.split() if named == group]
    listed.sort(key=lambda each: -len(each[0].rstrip("*")))
    votes: dict[str, int] = {}
    for word in text.lower().split():
        for entry, code in listed:
            if word == entry or (entry.endswith("*") and word.startswith(entry[:-1])):
                votes[code] = votes.get(code, 0) + 1
                break
    best = [code for code, count in votes.items() if count == max(votes.values())]
    return best[0] if len(best) == 1 else None


def slow_chinese(text: str) -> str | None:
    """What `chinese` says, said with sets."""

    def has(character: str, codec: str) -> bool:
        return bool(character.encode(codec, "ignore"))

    ideographs = {each for each in text if "\u4e00" <= each < "\ua000"}
    balance = sum(has(each, "gb2312") - has(each, "big5") for each in ideographs)
    return None if balance == 0 else "zh-Hans" if balance > 0 else "zh-Hant"


WORDS = st.sampled_from(
    [
        "neko",
        "netko",
        "hiljad",
        "hiljada",
        "hilja",
        "tisuća",
        "TISUĆU",
        "ljekarna",
        "karena",
        "kerana",
        "kere",
        "x",
        "\ud800",
        "\U0001f600neko",
        "\u0130",
        "这",
        "這",
        "人",
    ]
)
TEXTS = st.lists(
    st.lists(st.tuples(WORDS, st.sampled_from(["", " ", "\n", "\u00a0", "\u3000", "."])), max_size=12).map(
        lambda parts: "".join(map("".join, parts))
    ),
    max_size=5,
)


@settings(deadline=None)
@given(TEXTS)
def test_compiled_code_says_what_the_slow_way_says_whatever_stands_beside_a_text(texts: list[str]) -> None:
    for group in ("bs", "id"):
        assert by_words(group, texts) == [slow_by_words(group, text) for text in texts]
    assert chinese(texts) == [slow_chinese(text) for text in texts]
