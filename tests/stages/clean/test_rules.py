"""Text rules: what each changes and leaves, that a gate hides no change, that no combining mark is lost, and that each says what it is."""

from __future__ import annotations

import re
import time
import unicodedata
from collections import Counter
from importlib import import_module

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.text.languages import Language, lookup
from pipeline.text.normalise import normalise
from stages.clean.rewrite import Rewriter, touched
from stages.clean.rules import DEFAULT, RULES, Rule, load
from stages.dedup.rules import RULES as DECISIONS

BY_NAME = {rule.name: rule for rule in load(tuple(RULES))}
LINE_RULES = ("boilerplate", "navigation", "unpunctuated")
PIECES = (
    "café", "cafÃ©", "â€œ", "\u200d", "\u200c", "\u200b", "\u200e", "\u202b", "\u202c", "\u2066", "\u2069", "می", "\u064e", "שלום", "नमस्ते", "\u0301", "ทุกคน", "\u0e48", "កើត",
    "\u17d2", "人人生", "が", "か\u3099", "<p>", "</b>", "&amp;", "&eacute;", "<!-- x -->", "a@b.org", "120.1.2.3", "2001:db9::1", "+49 30 1234567", "Tel. 030 123456", "javascript", "Home", "|",
    "one two three four", ".", "。", "।", "…", " ", "  ", "\n", "\n\n\n", "\r\n", "\t", "\xa0", "\x00", "\x85", "\U0001f468", "\U0001f3f4", "\U000e0067", "\U000e007f", "\ufe0f", "1", "٢", "\u202e",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.characters(codec="utf-8"), max_size=12).map("".join)
LANGS = st.sampled_from(["en", "fa", "hi", "th", "km", "zh-Hans", "he", "el", None])


def language(code: str | None) -> Language | None:
    return None if code is None else lookup(code)


def apply(name: str, text: str, lang: str | None = "en") -> str:
    return BY_NAME[name].apply(text, language(lang))


def marks(text: str) -> Counter[str]:
    return Counter(character for character in text if unicodedata.category(character)[0] == "M")


# ---------------------------------------------------------------- of all rules


@settings(deadline=None, max_examples=30)
@given(st.lists(TEXTS, min_size=10, max_size=30), LANGS)
@example(["\u0e38\u0e48\u0e48\u0e38"], "th")
def test_a_rule_changes_nothing_that_its_gate_does_not_let_through(texts: list[str], lang: str | None) -> None:
    for rule in BY_NAME.values():
        rows, _ = touched(rule.touches, pa.array(texts, pa.large_string()))
        for row in {*range(len(texts))} - {*rows}:
            assert rule.apply(texts[row], language(lang)) == texts[row], rule.name


@settings(deadline=None, max_examples=300)
@given(TEXTS, LANGS)
def test_no_combining_mark_is_lost_but_with_its_line(text: str, lang: str | None) -> None:
    for rule in BY_NAME.values():
        after = rule.apply(text, language(lang))
        if rule.name in LINE_RULES:
            assert set(after.split("\n")) <= {*text.split("\n"), ""}
        elif rule.name == "normalise":
            assert marks(unicodedata.normalize("NFD", after)) == marks(unicodedata.normalize("NFD", text))
        else:  # references and mojibake may bring more
            assert marks(text) <= marks(after), rule.name


def test_markup_around_marks_leaves_them() -> None:
    assert apply("markup", "<b>नमस्</b>ते <i>é</i>&#x301;") == "नमस्ते é\u0301"


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(TEXTS, LANGS), min_size=1, max_size=20))
def test_a_batch_is_rewritten_as_its_texts_are_one_by_one(given_: list[tuple[str, str | None]]) -> None:
    rewriter = Rewriter(tuple(RULES))
    found = rewriter.rewrite(pa.array([text for text, _ in given_]), [lang or "und" for _, lang in given_]).to_pylist()
    changed = dict.fromkeys(RULES, 0)
    for (text, lang), after in zip(given_, found, strict=True):
        for rule in BY_NAME.values():
            before, text = text, rule.apply(text, language(lang))
            changed[rule.name] += text != before
        assert after == text
    assert rewriter.counts()["changed"] == changed


@settings(deadline=None, max_examples=30)
@given(st.lists(TEXTS, min_size=10, max_size=20), LANGS)
def test_what_the_default_rules_leave_is_normalised(texts: list[str], lang: str | None) -> None:
    after = Rewriter(DEFAULT).rewrite(pa.array(texts), [lang or "und"] * len(texts)).to_pylist()
    assert list(map(normalise, after)) == after


@pytest.mark.parametrize(("name", "path"), [*RULES.items(), *DECISIONS.items()])
def test_a_rule_says_what_it_is_with_its_source_direction_and_unit(name: str, path: str) -> None:
    about = import_module(path).__doc__ or ""
    assert about.startswith(f"{name}: ")
    for word in ("source", "direction", "unit"):
        assert re.search(rf"\b{word}\b", about, re.IGNORECASE), f"{path}: its docstring names no {word}"


def test_a_gate_may_be_absent_and_what_a_rule_counts_is_added_up() -> None:
    assert Rule("x", lambda text, lang: text, None, None).touches is None
    assert touched(None, pa.array(["a", "b"], pa.large_string())) == ([0, 1], ["a", "b"])
    rewriter = Rewriter(("pii", "boilerplate"))
    rewriter.rewrite(pa.array(["a@b.org and c@d.org\nPlease enable JavaScript\n120.1.2.3", "plain"]), ["en", "en"])
    assert rewriter.counts() == {
        "changed": {"pii": 1, "boilerplate": 1}, "lines_removed": {"pii": 0, "boilerplate": 1}, "replaced": {"email": 2, "ip": 1},
    }  # fmt: skip


# ---------------------------------------------------------------- one by one


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("cafÃ© â€œquotedâ€\x9d", "café “quoted”"), ("Â£20 Ã©tÃ©", "£20 été"), ("ÐŸÑ€Ð¸Ð²ÐµÑ‚, Ð¼Ð¸Ñ€", "Привет, мир"), ("àª¨", "ન"),
        ("good é and «où»\nbad Ã©tÃ©\n人人", "good é and «où»\nbad été\n人人"),
    ],
)  # fmt: skip
def test_mojibake_is_mended_line_by_line(broken: str, mended: str) -> None:
    assert apply("mojibake", broken) == mended


@pytest.mark.parametrize("text", ["l’été «où» 25 °C", "Größe: 5 × 3 µm", "Ça coûte 5 € – à peu près", "ÀÉ", "Þórður", "№ 5 «Привет»", "đường Ấn Độ", "São Tomé e Príncipe"])  # fmt: skip
def test_text_that_is_no_mojibake_stays(text: str) -> None:
    assert apply("mojibake", text) == text


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("می\u200cخواهم", None), ("क्\u200dष", None), ("ខ្ញុំ\u200bទៅ", None), ("\U0001f468\u200d\U0001f469", None), ("ᠠ\u180e", None),
        ("Auf\u200clage a\u200bb x\u200dy", "Auflage ab xy"), ("می\u200c\u200cخواهم", "می\u200cخواهم"),
        ("left\u200e \u202aright\u202c", "left right"), ("שלום\u200f \u202bx\u202c", None), ("שלום \u202bx\nשלום \u2067x\u2069", "שלום x\nשלום \u2067x\u2069"),
        ("שלום \u202eabc\u202c", "שלום abc"), ("שלום \u202bx\u2069", "שלום x"), ("a\u2063b\u206ac\ufff9", "abc"),
        ("\U0001f3f4\U000e0067\U000e0062\U000e007f", None), ("x\U000e0041", "x"),
    ],
)  # fmt: skip
def test_controls_stay_where_their_script_needs_them(text: str, after: str | None) -> None:
    assert apply("controls", text) == (text if after is None else after)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("write to john.doe+x@mail.example.co.uk.", "write to <email>."), ("写信info@example.com谢谢", "写信<email>谢谢"), ("josé@correo.es", "<email>"),
        ("http://120.1.2.3:80/x", "http://<ip>:80/x"), ("from 203.0.114.7.", "from <ip>."), ("2001:4860:4860::8888", "<ip>"),
    ],
)  # fmt: skip
def test_addresses_become_placeholders(text: str, after: str) -> None:
    assert apply("pii", text) == after


@pytest.mark.parametrize(
    "text",
    [
        "section 2.3.1.4", "version 10.0.19041.1", "v120.1.2.3", "Chrome/120.0.0.0", "192.168.1.100", "127.0.0.200", "203.0.113.9", "@user", "a@localhost", "12:30:45", "std::vector",
        "2001:db8::1", "1.2.840.113549.1", "12.10.2024", "300.1.2.3", "3 @ 4.50", "1:2:3:4",
    ],
)  # fmt: skip
def test_what_only_looks_like_an_address_stays(text: str) -> None:
    assert apply("pii", text) == text


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("call +49 (0) 30 1234567 now", "call <phone> now"), ("+34 612 345 678", "<phone>"), ("(555) 123-4567", "<phone>"), ("555-123-4567", "<phone>"),
        ("Tel.: 030 / 123 45 67", "Tel.: <phone>"), ("电话：010-12345678", "电话：<phone>"), ("тел. 8 (495) 123-45-67", "тел. <phone>"), ("هاتف: ٠١٢٣٤٥٦٧٨٩", "هاتف: <phone>"),
    ],
)  # fmt: skip
def test_telephone_numbers_become_placeholders(text: str, after: str) -> None:
    assert apply("phones", text) == after


@pytest.mark.parametrize(
    "text",
    [
        "2024-10-12", "12.10.2024 14:30", "978-3-16-148410-0", "ISBN 0-306-40615-2", "1 234 567 890", "grew by +10 000 000", "1914-1918, 1939-1945", "hotel 123456", "Tel Aviv 1948", "0.1234567891",
        "4111 1111 1111 1111", "12\t345\t678\t901", "pages 100-200", "−12 345 678",
    ],
)  # fmt: skip
def test_dates_isbns_and_columns_of_numbers_are_no_telephone_numbers(text: str) -> None:
    assert apply("phones", text) == text


def test_boilerplate_lines_go_in_any_language_and_prose_about_them_stays() -> None:
    prose = "The privacy policy of the new act was debated for hours. " * 8
    text = f"Please enable JavaScript.\nA line.\nWir verwenden Cookies, um alles zu verbessern\n隐私政策\nLorem ipsum dolor\n{prose}"
    assert apply("boilerplate", text) == f"A line.\n{prose}"
    assert apply("boilerplate", "privacy policy") == ""


def test_menus_go_and_sentences_stay() -> None:
    text = "Home\nNews\nContact us\nAbout\n\nThis sentence stays.\nHome | News | Contact\nA\nB\nThe end."
    assert apply("navigation", text) == "This sentence stays.\nA\nB\nThe end."
    assert apply("navigation", "首页\n新闻\n联系我们\n关于\n这是一个句子。", "zh-Hans") == "这是一个句子。"
    thai = "หน้าแรก\nข่าว\nติดต่อ\nเกี่ยวกับ"
    assert apply("navigation", thai, "th") == thai


def test_lines_without_an_end_mark_go_unless_the_script_has_none() -> None:
    assert apply("unpunctuated", "Title\nA sentence. \n\n\nCut off...\n“Quoted.”\nso;") == "A sentence. \n\n“Quoted.”"
    assert apply("unpunctuated", "शीर्षक\nयह वाक्य है।", "hi") == "यह वाक्य है।"
    assert apply("unpunctuated", "Τι είναι;", "el") == "Τι είναι;"
    assert apply("unpunctuated", "ทุกคนเกิดมา", "th") == "ทุกคนเกิดมา"


def test_text_of_nothing_but_openings_is_worked_in_moments() -> None:
    for text in (
        "<!--" * 20_000,
        "<script>" * 10_000,
        " " * 100_000 + "<",
        "a." * 50_000 + "@",
        "1." * 50_000,
        "+1 " * 30_000,
        "\u200b" * 50_000,
    ):
        started_at_s = time.monotonic()
        for rule in BY_NAME.values():
            rule.apply(text, None)
        assert time.monotonic() - started_at_s < 20  # a pattern that looks at each place from each place takes minutes
