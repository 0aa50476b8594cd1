"""Scans that tell which texts a rule leaves as they are."""

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.tables import utf8
from pipeline.text import settled
from pipeline.text.normalise import normalise
from stages.clean import rules
from stages.clean.rules import markup

AWKWARD = st.sampled_from(
    list(
        " \n\t\r\x85\u2028\ufeff\u0301\u0323\u0327\u1100\u1161\u11a8\uac00\u09c7\u09be\u2581\u2585\xad\u200b\u200d\u3000\x00\U0001ffff\u0344é한क़x.<&"
    )
)
TEXTS = st.lists(st.text(st.characters(exclude_categories=("Cs",)) | AWKWARD, max_size=12), min_size=1, max_size=8)


def _batch(texts: list[str]):
    return utf8(pa.array(texts, pa.large_string()))


@settings(deadline=None, max_examples=300)
@given(TEXTS)
@example(["a\n\nb", "a\n\n\nb", "a \nb", "a\n b", " a", "a ", "\na", "a\n", "a  b", "", "a\u0301", "q\u0301\u0323", "q\u0323\u0301"])
def test_what_the_scan_calls_settled_is_left_as_it_is(texts: list[str]) -> None:
    for text, certain in zip(texts, settled.normalised(*_batch(texts)).tolist(), strict=True):
        assert not certain or normalise(text) == text
    for text, certain in zip(texts, markup.settled(*_batch(texts)).tolist(), strict=True):
        assert not certain or markup.apply(text, None) == text


def test_ordinary_text_of_many_scripts_is_settled() -> None:
    texts = [
        "Plain text.\n\nTwo paragraphs.",
        "Đường phố Việt Nam",
        "Ελληνικά: όπως",
        "Россия",
        "日本語の文",
        "ภาษา",
        "한국어 문장",
        "العربية",
        "",
    ]
    assert settled.normalised(*_batch(texts)).tolist() == [True] * len(texts)


def test_a_rule_without_a_scan_makes_every_text_go_through_it(monkeypatch) -> None:
    assert rules.settled(("markup", "normalise"), *_batch(["a", "a & b", "a  b"])).tolist() == [True, False, False]
    monkeypatch.delattr(markup, "settled")
    assert rules.settled(("markup", "normalise"), *_batch(["a"])) is None
