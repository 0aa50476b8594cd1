"""The spellings that a path's `{lang}` stands for."""

from __future__ import annotations

import pytest

from pipeline.text.spellings import spellings


@pytest.mark.parametrize(
    ("code", "spelling"),
    [("sr", "srp-Cyrl"), ("sr", "srp_Cyrl"), ("sr-Latn", "srp-Latn"), ("sn", "sna-Latn"), ("tg", "tgk-Cyrl"), ("zh-Hans", "zh_Hans")],
)
def test_a_code_of_flores_or_ntrex_is_found_with_either_mark(code: str, spelling: str) -> None:
    assert spelling in spellings(code)


@pytest.mark.parametrize("code", ["en", "sr", "zh-Hans", "nb"])
def test_the_canonical_code_comes_first_and_none_comes_twice(code: str) -> None:
    assert spellings(code)[0] == code
    assert len(set(spellings(code))) == len(spellings(code))
