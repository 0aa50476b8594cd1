"""The one normaliser."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.normalise import normalise

AWKWARD = st.sampled_from("\r\n \t\v\x85\u2028\ufeff\u0301\u0323\u1100\u1161\u11a8\u2581\u2585\ud800\xad\u200b\u3000\x00\U0001ffff\u2060")


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=()) | AWKWARD, max_size=60))
def test_normalising_twice_is_normalising_once_and_the_form_holds(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not {"▁", "▅", "\t", "\r", "\ufeff", "\xad", "\xa0"} & set(once)
    assert "  " not in once and " \n" not in once and "\n " not in once and "\n\n\n" not in once and once == once.strip(" \n")
    once.encode("utf-8")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\r\nb\rc\u2028d\u2029e\x85f", "a\nb\nc\nd\ne\nf"),
        ("  a\t\xa0 b\u3000c  \n  d", "a b c\nd"),
        ("a\n\n \n\nb\n", "a\n\nb"),
        ("\ufeffa\x00b\ud800c\ufffe\U0010ffffd", "abcd"),
        ("co\xadop", "coop"),
        ("e\u0301 a\u0323\u0302", "é ậ"),
        ("▁x▅", "_x▄"),
        ("\ufffd stays", "\ufffd stays"),
        ("می\u200cخواهم क\u094d\u200dष ខ\u200bគ \u200f", "می\u200cخواهم क\u094d\u200dष ខ\u200bគ \u200f"),
        ("👩\u200d👩\u200d👧 ☺\ufe0f", "👩\u200d👩\u200d👧 ☺\ufe0f"),
        ("", ""),
    ],
)
def test_each_rule_does_what_the_head_of_the_file_says(raw: str, clean: str) -> None:
    assert normalise(raw) == clean
