"""HTML documents: the shape of the Universal Declaration's files, and markup that is broken on purpose."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest

from pipeline.errors import ConfigError
from stages.ingest.enumerators import without_enumerator, without_heading
from stages.ingest.records import Damaged, Item, Record, Slice, SourceFile
from stages.ingest.sources import html

PAGE = """<!doctype html>
<html data-code="xxa" data-iso6393="xxa" dir="ltr" lang="xx-Latn">
  <head><title>Xish</title><style>p {}</style></head>
  <body>
    <h1>On gardens</h1>
    <header><h2>Before</h2><p>A preamble stands outside of the articles.</p></header>
    <article data-number="1">
      <h2>Article 1</h2>
      <p>Trees   are
         tall&nbsp;&amp; <b>gre</b>en.<br>Always.</p>
      <script>var p = "<p>no</p>"</script>
    </article>
    <article data-number="2">
      <h1>PART TWO</h1>
      <h2>Article 2</h2>
      <p>Rules:</p>
      <ol>
        <li><p>(1) Water them.</p></li>
        <li><p>2. Talk to them.</p></li>
        <li></li>
      </ol>
      <p>&#x26;1</p>
    </article>
    <article data-number="3"><h2>Article 3</h2></article>
  </body>
</html>
"""


def run(page: str | bytes, lang: str | None = "xxa", **fields: Any) -> list[Item]:
    data = page.encode() if isinstance(page, str) else page
    config = html.Config(kind="html", path="d/{lang}.html", **fields)
    file = SourceFile("mem:x.html", "x.html", len(data), lang)
    assert html.slices(file, config, 10) == [Slice()]
    read = html.read(lambda: io.BytesIO(data), file, Slice(), config)
    return [item if isinstance(item, Damaged) else item.make() for item in read]


def texts(page: str | bytes, **fields: Any) -> list[str]:
    return [item.text for item in run(page, **fields) if isinstance(item, Record)]


def test_articles_are_aligned_documents_of_paragraphs() -> None:
    assert run(PAGE, document="article", group_attribute="data-number", lang_attribute="lang", licence="MIT") == [
        Record(0, 0, "Trees are tall\u00a0& green. Always.", "xx-Latn", "1", None, "MIT"),
        Record(0, 1, "Rules:\n(1) Water them.\n2. Talk to them.\n&1", "xx-Latn", "2", None, "MIT"),
        Record(0, 2, "", "xx-Latn", "3", None, "MIT"),
    ]


def test_enumerators_and_paragraphs_of_nothing_else_go_when_asked() -> None:
    assert texts(PAGE, document="article", strip_enumerators=True)[1] == "Rules:\nWater them.\nTalk to them."


def test_a_file_is_one_document_with_the_language_of_its_name() -> None:
    (record,) = run(PAGE, group_attribute="data-code")
    assert isinstance(record, Record) and (record.lang, record.group, record.ordinal) == ("xxa", "xxa", 0)
    assert record.text.startswith("A preamble stands outside of the articles.\nTrees are tall") and "On gardens" not in record.text


def test_a_fixed_language_yields_to_what_the_element_says() -> None:
    page = '<article lang="de"><p>a</p></article><article><p>b</p></article>'
    assert [r.lang for r in run(page, document="article", lang_attribute="lang", lang="en") if isinstance(r, Record)] == ["de", "en"]


def test_nothing_is_delivered_twice_where_finds_nest() -> None:
    page = "<div><p>a</p><div><p>b</p></div></div><ul><li>c<p>d</p></li></ul>"
    assert texts(page, document="div") == ["a\nb"]
    assert texts(page, document="file", paragraphs="li, p") == ["a\nb\ncd"]


def test_what_is_dropped_may_be_chosen_and_headings_kept() -> None:
    assert texts("<h1>T</h1><p>a <sup>1</sup>b</p>", drop=("sup",), paragraphs="h1, p") == ["T\na b"]


def test_broken_markup_entities_and_nul_make_text_that_can_be_written() -> None:
    (text,) = texts("<p>a &#xD800; b\0c &bogus; <b>d<p>e</b></p><p")
    assert text.encode().decode() == text and "\ufffd" in text and text.splitlines()[-1] == "e"


def test_bytes_that_are_not_utf8_quarantine_the_file() -> None:
    (damage,) = run('<meta charset="latin1"><p>é</p>'.encode("latin-1"))
    assert isinstance(damage, Damaged) and (damage.offset, damage.reason) == (0, "invalid_utf8")


def test_a_file_over_the_limit_is_quarantined() -> None:
    (damage,) = run("<p>abc</p>", max_record_bytes=9)
    assert isinstance(damage, Damaged) and damage.reason == "record_too_long"


def test_an_empty_file_is_an_empty_document() -> None:
    assert texts("") == [""]
    assert run("", document="article") == []


def test_elements_without_end_are_refused_quickly_and_long_lists_are_not() -> None:
    started = time.monotonic()
    (damage,) = run("<div>" * 1_000_000)
    assert isinstance(damage, Damaged) and damage.reason == "nested_too_deeply"
    assert texts("<p>a<br>" * 2000) == ["\n".join("a" * 2000)]
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("field", ["document", "paragraphs", "drop"])
def test_a_selector_that_is_not_css_is_an_error_that_names_it(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"{field}: 'p\[\[' is not a CSS selector"):
        run("<p>a</p>", **{field: ("p[[",) if field == "drop" else "p[["})


@pytest.mark.parametrize(
    "enumerator",
    [
        "1.",
        "1)",
        "(1)",
        "12.",
        "(a)",
        "a)",
        "a.",
        "(iv)",
        "iv.",
        "II.",
        "I.",
        "१.",
        "٣-",
        "۲ ‐",
        "፩.",
        "1.-",
        "11.1.-",
        "2-",
        "1º",
        "1.º",
        "（一）",
        "二、",
        *("第三条:", "Article 3.", "ຂໍ້ 1.", "Artículo 12:", "(Ber)", "(Kwanza) -", "א.", "क)", "1. (a)", "[2]"),
    ],
)
def test_an_enumerator_of_any_script_goes(enumerator: str) -> None:
    assert without_enumerator(f"{enumerator} Gärten sind für alle.") == "Gärten sind für alle."


def test_an_enumerator_that_touches_its_word_goes() -> None:
    assert [without_enumerator(t) for t in ("2.Һәр бир", "1)Setiap", "(4)‘Oku", "3-'E ti'a", "ຂໍ້ 1.ຄົນຜູ້")] == [
        "Һәр бир",
        "Setiap",
        "‘Oku",
        "'E ti'a",
        "ຄົນຜູ້",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "1.5 million trees",
        "24-hour service",
        "1948. In that year",
        "30 days are enough",
        "J. Smith planted",
        "First, water them",
        "10:30 is late",
        "حق٢ دان كبيبسن",
        "(those of the garden) grow",
        "mi. fa. sol",
        "Am-mahala misi",
        "第二の家",
        "一人の庭",
        "In 1948 trees grew",
        "’Sto derito",
        "20-30 trees",
    ],
)
def test_a_number_that_is_text_stays(text: str) -> None:
    assert without_enumerator(text) == text


@pytest.mark.parametrize("text", ["", "3", "(3)", "&1", "@", "— 4 —", "第三条", "1. 2. 3."])
def test_nothing_is_left_of_a_mere_number(text: str) -> None:
    assert without_enumerator(text) == ""


def test_a_heading_that_is_repeated_goes_where_it_holds_a_number() -> None:
    assert without_heading("ARTICLE 3 Everyone", ["Article 3"]) == " Everyone"
    assert without_heading("Article 30 years ago", ["Article 3"]) == "Article 30 years ago"
    assert without_heading("Rules for all", ["Rules"]) == "Rules for all"
    page = "<article><h2>Tov 3</h2><p>Tov 3 Nas pelu.</p></article>"
    assert texts(page, document="article", strip_enumerators=True) == ["Nas pelu."]
