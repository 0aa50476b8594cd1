"""The spellings that a path's `{lang}` stands for."""

from __future__ import annotations

import pytest

from pipeline.text.languages import known
from pipeline.text.spellings import spellings


@pytest.mark.parametrize(
    ("code", "spelling"),
    [("sr", "srp-Cyrl"), ("sr", "srp_Cyrl"), ("sr-Latn", "srp-Latn"), ("sn", "sna-Latn"), ("tg", "tgk-Cyrl"), ("zh-Hans", "zh_Hans")],
)
def test_a_code_of_flores_or_ntrex_is_found_with_either_mark(code: str, spelling: str) -> None:
    assert spelling in spellings(code)


@pytest.mark.parametrize(("code", "spelling"), [("sr-Latn", "srp"), ("ace-Arab", "ace"), ("zh-Hant", "zho"), ("zh-Hant", "zh")])
def test_a_spelling_that_means_the_language_in_another_script_is_none_of_its_own(code: str, spelling: str) -> None:
    assert spelling not in spellings(code)


def test_every_spelling_means_its_own_language_alone() -> None:
    owners: dict[str, str] = {}
    for language in known():
        for spelling in spellings(language.code):
            assert owners.setdefault(spelling, language.code) == language.code, spelling


@pytest.mark.parametrize("code", ["en", "sr", "zh-Hans", "nb"])
def test_the_canonical_code_comes_first_and_none_comes_twice(code: str) -> None:
    assert spellings(code)[0] == code
    assert len(set(spellings(code))) == len(spellings(code))
