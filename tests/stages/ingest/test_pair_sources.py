"""Bitext from two files, from translation memories and from quoted columns: alignment is never guessed, damage costs one pair."""

from __future__ import annotations

import gzip
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import ConfigError, MissingSourceError, StageError
from pipeline.sources import Source
from stages.ingest.partners import partners
from stages.ingest.records import Damaged, Item, Pair, Record, Slice, SourceFile
from stages.ingest.sources import moses, text, tmx, tsv_pairs

# ---------------------------------------------------------------- moses


def two(path: str = "x.{lang}", other: str = "x.en", **fields: Any) -> moses.Config:
    return moses.Config(kind="moses", path=path, other=other, **fields)


def side_by_side(config: moses.Config, a: bytes, b: bytes, lang: str | None = "et", suffix: str = "") -> list[Item]:
    held = {"a": a, "b": b}
    file = SourceFile("a", f"x.{lang}{suffix}", len(a), lang, None, SourceFile("b", f"x.en{suffix}", len(b)))
    assert moses.slices(file, config, 1) == [Slice()]
    return list(moses.read(lambda url="a": io.BytesIO(held[url]), file, Slice(), config))


def test_line_n_of_one_file_is_paired_with_line_n_of_the_other() -> None:
    found = side_by_side(two(licence="CC0"), b"Tere\r\n\nHead aega", b"Hi\n\nGoodbye\n")
    assert found == [
        Pair(0, 0, "et", "en", "Tere", "Hi", None, "CC0"),
        Pair(6, 0, "et", "en", "", "", None, "CC0"),
        Pair(7, 0, "et", "en", "Head aega", "Goodbye", None, "CC0"),
    ]


def test_languages_come_from_the_last_suffix_or_the_settings() -> None:
    for config, sides in (
        (two("OPUS.en-{lang}.{lang}.gz", "OPUS.en-{lang}.en.gz", compression="none"), ("et", "en")),
        (two("ref.{lang}.txt", "src.eng.txt"), ("et", "en")),
        (two("a.txt", "b.txt", lang_a="no", lang_b="y"), ("no", "y")),
    ):
        (pair,) = side_by_side(config, b"1\n", b"2\n")
        assert isinstance(pair, Pair) and (pair.lang_a, pair.lang_b) == sides
        assert moses.languages_of(SourceFile("a", "a", 1, "et"), config) == sides


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "x.txt"}, "the language of x.txt is not known: set lang_a"),
        ({"path": "x.en", "other": "x.{lang}"}, "the other way round"),
        ({"path": "*/x.{lang}", "other": "x.en"}, "the same wildcards"),
        ({"lang": "et"}, "set lang_a and lang_b"),
        ({"other": "x.{code}"}, r"\{code\} in a path"),
    ],
)
def test_sides_that_cannot_be_told_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        two(**fields)


@pytest.mark.parametrize(
    ("a", "b", "short", "number"), [(b"1\n2\n", b"1\n2\n3\n", "x.et", 2), (b"1\n2\n\n", b"1\n2", "x.en", 2), (b"", b"1", "x.et", 0)]
)
def test_files_of_different_length_fail_with_both_names_and_the_line(a: bytes, b: bytes, short: str, number: int) -> None:
    with pytest.raises(
        StageError, match=rf"x\.et and x\.en: not aligned: {short} ends with line {number}, .* goes on with line {number + 1}\. "
    ) as failure:
        side_by_side(two(), a, b)
    assert failure.value.exit_code == 4


def test_a_line_that_cannot_be_read_takes_its_counterpart_along_and_no_other() -> None:
    config = two(max_record_bytes=5, line_group="set")
    found = side_by_side(config, b"a\nb\xff\nc\nd\n", b"1\n2\n3 is too long\n4\n")
    assert [(p.text_a, p.text_b, p.group) for p in found if isinstance(p, Pair)] == [("a", "1", "set:1"), ("d", "4", "set:4")]
    assert [(d.offset, d.reason, d.rest_of_stream) for d in found if isinstance(d, Damaged)] == [
        (2, "invalid_utf8", False),
        (5, "record_too_long", False),
    ]


@pytest.mark.parametrize("broken", ["a", "b"])
def test_a_side_cut_short_in_its_compression_quarantines_the_rest_of_both(broken: str) -> None:
    lines = "".join(f"line {i} {i * 7919 % 104729}\n" for i in range(20_000)).encode()
    whole = gzip.compress(lines)
    cut = whole[: len(whole) // 2]
    found = side_by_side(two(), cut if broken == "a" else whole, cut if broken == "b" else whole, suffix=".gz")
    *pairs, damage = found
    assert len(pairs) > 1000 and all(isinstance(p, Pair) and p.text_a == p.text_b for p in pairs)
    assert isinstance(damage, Damaged) and (damage.reason, damage.rest_of_stream) == ("truncated", True)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=20))
def test_what_is_written_line_by_line_comes_back_pair_by_pair(rows: list[tuple[str, str]]) -> None:
    rows = [
        (a.replace("\n", "").replace("\r", "").lstrip("\ufeff"), b.replace("\n", "").replace("\r", "").lstrip("\ufeff")) for a, b in rows
    ]
    a, b = ("".join(row[side] + "\n" for row in rows).encode("utf-8", "ignore") for side in (0, 1))
    found = side_by_side(two(), a, b)
    assert [(p.text_a.encode(), p.text_b.encode()) for p in found if isinstance(p, Pair)] == [
        (one.encode("utf-8", "ignore"), other.encode("utf-8", "ignore")) for one, other in rows
    ]


def listed(*names: str, lang: str | None = None) -> list[Source]:
    return [Source(f"/d/{name}", f"0/{name}", lang, 1, "t") for name in names]


SPELLED = {"de": ("de", "deu"), "fr": ("fr",), "en": ("en", "eng")}


def test_files_are_partners_by_what_the_wildcards_stand_for() -> None:
    firsts = [*listed("a/c.deu", "b/c.deu", lang="de"), *listed("a/c.fr", lang="fr")]
    found = partners("/d/*/c.{lang}", "/d/*/c.en", firsts, listed("b/c.en", "a/c.en"), SPELLED)
    assert [(a.url, b.url) for a, b in found] == [("/d/a/c.deu", "/d/a/c.en"), ("/d/b/c.deu", "/d/b/c.en"), ("/d/a/c.fr", "/d/a/c.en")]


def test_the_pivot_is_no_partner_of_itself_and_a_partner_may_hold_the_language_twice() -> None:
    found = partners("/d/x.{lang}", "/d/x.en", [*listed("x.de", lang="de"), *listed("x.en", lang="en")], listed("x.en"), SPELLED)
    assert [(a.url, b.url) for a, b in found] == [("/d/x.de", "/d/x.en")]
    found = partners("/d/{lang}-en.{lang}", "/d/{lang}-en.en", listed("deu-en.deu", lang="de"), listed("deu-en.en", lang="de"), SPELLED)
    assert len(found) == 1


def test_a_file_without_its_partner_is_named() -> None:
    firsts = listed("a/c.de", "b/c.de", lang="de")
    with pytest.raises(MissingSourceError, match=r"/d/b/c\.de: no file of /d/\*/c\.en is its other side"):
        partners("/d/*/c.{lang}", "/d/*/c.en", firsts, listed("a/c.en"), SPELLED)
    with pytest.raises(MissingSourceError, match=r"/d/z/c\.en: no file of /d/\*/c\.\{lang\} is its other side"):
        partners("/d/*/c.{lang}", "/d/*/c.en", firsts, listed("a/c.en", "b/c.en", "z/c.en"), SPELLED)


# ---------------------------------------------------------------- tmx

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4"><header srclang="en-US" datatype="x"/><body>\n'
TAIL = "</body></tmx>\n"


def variant(lang: str, segment: str) -> str:
    return f'<tuv xml:lang="{lang}"><prop type="x">y</prop><seg>{segment}</seg></tuv>'


def unit(*variants: tuple[str, str], attributes: str = "") -> str:
    return f"<tu{attributes}>{''.join(variant(*each) for each in variants)}</tu>\n"


def memory(body: str | bytes, max_bytes: int = 1 << 30, name: str = "m.tmx", **fields: Any) -> list[Item]:
    data = body if isinstance(body, bytes) else (HEAD + body + TAIL).encode()
    config = tmx.Config(kind="tmx", path="m.tmx", **fields)
    file = SourceFile("m", name, len(data))
    return [item for part in tmx.slices(file, config, max_bytes) for item in tmx.read(lambda: io.BytesIO(data), file, part, config)]


def sides(items: list[Item]) -> list[tuple[str, str, str, str]]:
    return [(p.lang_a, p.lang_b, p.text_a, p.text_b) for p in items if isinstance(p, Pair)]


def reasons(items: list[Item]) -> list[str]:
    return [d.reason for d in items if isinstance(d, Damaged)]


def test_variants_are_paired_with_the_source_language() -> None:
    body = unit(("EN-us", "One &amp; two"), ("de", "Eins &#38; zwei"), ("pt_BR", "Um e\n  dois"))
    found = memory(body)
    assert sides(found) == [("de", "en", "Eins & zwei", "One & two"), ("pt", "en", "Um e dois", "One & two")]
    first, second = found
    assert isinstance(first, Pair) and isinstance(second, Pair) and first.group == second.group is not None
    assert (first.offset, first.ordinal, second.ordinal) == (len(HEAD), 0, 1)
    assert sides(memory(body, pivot="de")) == [("en", "de", "One & two", "Eins & zwei"), ("pt", "de", "Um e dois", "Eins & zwei")]
    assert sides(memory(unit(("de", "a"), ("fr", "b"), attributes=' srclang="*all*"'))) == [("fr", "de", "b", "a")]


def test_native_code_goes_and_what_is_said_stays() -> None:
    segment = '<bpt i="1">&lt;b title="<sub>hint</sub>"></bpt>Bold<ept i="1">&lt;/b></ept>, <hi>high</hi>light<ph x="1">&lt;br/></ph>next <it pos="end">x</it>end'
    assert sides(memory(unit(("en", segment), ("de", "x")))) == [("de", "en", "x", "Bold, highlight next end")]


def test_a_variant_without_a_counterpart_is_delivered_to_be_counted() -> None:
    assert sides(memory(unit(("de", "a"), ("fr", "b")))) == [("de", "en", "a", ""), ("fr", "en", "b", "")]
    assert sides(memory(unit(("en", "a"), ("en-GB", "b"), ("de", "c")))) == [("en", "en", "b", "a"), ("de", "en", "c", "a")]
    assert sides(memory(unit(("en", "a")))) == [("en", "en", "", "a")]


def test_a_bad_unit_costs_itself_alone() -> None:
    good = unit(("en", "a"), ("de", "b"))
    bad = (
        unit(("en", "a < b"), ("de", "b")),
        unit(("en", "&boom;"), ("de", "b")),
        "<tu></tu>\n",
        "<tu tuid='a>b'/>\n",
        unit(("en", "&#1;"), ("de", "b")),
    )
    found = memory(good + good.join(bad) + good)
    assert len(sides(found)) == len(bad) + 1 and reasons(found) == ["bad_xml"] * len(bad)
    broken = (HEAD + good).encode() + good.encode().replace(b"a<", b"\xff<") + (good + TAIL).encode()
    assert len(sides(memory(broken))) == 2 and reasons(memory(broken)) == ["invalid_utf8"]


def test_an_expansion_bomb_is_not_expanded() -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE tmx [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><tmx><header srclang="en"/><body>'
    found = memory((bomb + unit(("en", "&b;"), ("de", "x")) + TAIL).encode())
    assert reasons(found) == ["bad_xml"] and not sides(found)


def test_comments_are_skipped_and_a_document_cut_short_is_damage() -> None:
    good = unit(("en", "a"), ("de", "b"))
    assert len(sides(memory(f"<!-- {good} -->{good}"))) == 1
    for cut in (HEAD + good, HEAD + good + good[:20], HEAD + good + "<!-- open"):
        found = memory(cut.encode())
        assert reasons(found) == ["truncated"] and len(sides(found)) == 1


def test_a_unit_that_is_too_long_is_skipped_with_its_length() -> None:
    good, long = unit(("en", "a"), ("de", "b")), unit(("en", "x" * 3_000_000), ("de", "b"))
    found = memory(good + long + good, max_record_bytes=1000)
    assert len(sides(found)) == 2
    assert [(d.offset, d.length, d.reason) for d in found if isinstance(d, Damaged)] == [
        (len(HEAD) + len(good), len(long) - 1, "record_too_long")
    ]


def test_other_encodings_are_read_and_compressed_files_too() -> None:
    body = unit(("en", "é"), ("de", "ß"))
    expected = [("de", "en", "ß", "é")]
    assert sides(memory((HEAD + body + TAIL).replace("UTF-8", "UTF-16").encode("utf-16"), max_bytes=50)) == expected
    assert sides(memory((HEAD + body + TAIL).replace("UTF-8", "ISO-8859-1").encode("latin-1"), max_bytes=50)) == expected
    assert sides(memory(gzip.compress((HEAD + body + TAIL).encode()), name="m.tmx.gz")) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a", "<!-- <tu> -->", "bad", "ü"]), max_size=12), st.integers(1, 200))
def test_any_cut_of_a_memory_gives_the_same_pairs(kinds: list[str], step: int) -> None:
    body = "".join(kind if kind.startswith("<") else unit(("en", "a < b" if kind == "bad" else kind), ("de", "b")) for kind in kinds)
    # A slice that begins within a comment cannot know it: none is cut there.
    if "<!--" in body:
        step = 1 << 20
    assert memory(body, max_bytes=step) == memory(body)


# ---------------------------------------------------------------- columns and lines


def test_quoted_columns_are_unquoted_and_an_open_quote_is_damage() -> None:
    config = tsv_pairs.Config(kind="tsv-pairs", path="{lang}-en.csv", delimiter=",", quoted=True)
    data = b'"a, ""b""",c\nplain,"d"\n"open,e\n"f",g\n'
    file = SourceFile("m", "et-en.csv", len(data), "et")
    found = [item for part in tsv_pairs.slices(file, config, 7) for item in tsv_pairs.read(lambda: io.BytesIO(data), file, part, config)]
    assert [(p.text_a, p.text_b) for p in found if isinstance(p, Pair)] == [('a, "b"', "c"), ("plain", "d"), ("f", "g")]
    assert reasons(found) == ["open_quote"]


def test_a_line_has_its_number_as_its_group_whatever_lines_are_lost() -> None:
    config = text.Config(kind="text", path="x", lang="et", line_group="news")
    file = SourceFile("m", "x", 10, "et")
    assert text.slices(file, config, 1) == [Slice()]
    found = list(text.read(lambda: io.BytesIO(b"one\n\n\xff\nfour\n"), file, Slice(), config))
    assert [(r.text, r.group) for r in found if isinstance(r, Record)] == [("one", "news:1"), ("four", "news:4")]
    with pytest.raises(ValidationError, match="line_group numbers lines"):
        text.Config(kind="text", path="x", documents="file", line_group="news")


def test_a_wildcard_that_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(ConfigError, match="in the same way"):
        partners("/d/x.{lang}", "/d/x.en", listed("x.de", lang="de"), [*listed("x.en"), *listed("x.en")], SPELLED)
