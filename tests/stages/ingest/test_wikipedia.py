"""Wikipedia dumps: each page once, however streams and slices are cut; markup gone, text left."""

from __future__ import annotations

import bz2
import gzip
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.ingest.records import Damaged, Record
from stages.ingest.sources import wikipedia
from stages.ingest.wikitext import text_of
from tests.stages.ingest.reading import damage, dropped, read, records

CONFIG = wikipedia.Config(kind="wikipedia", path="x.xml")
NAME = "swwiki-latest-pages-articles-multistream.xml.bz2"
HEAD = (
    b'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="sw">\n  <siteinfo>\n'
    b"    <sitename>Wikipedia</sitename>\n    <base>https://sw.wikipedia.org/wiki/Mwanzo</base>\n    <namespaces>\n"
    b'      <namespace key="0" case="first-letter" />\n      <namespace key="6" case="first-letter">Picha</namespace>\n'
    b'      <namespace key="14" case="first-letter">Jamii</namespace>\n    </namespaces>\n  </siteinfo>\n'
)
TAIL = b"</mediawiki>\n"


def page(text: str, title: str = "Moshi", ns: int = 0, extra: str = "", model: str = "wikitext") -> bytes:
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n    <ns>{ns}</ns>\n    <id>1</id>\n{extra}    <revision>\n      <id>2</id>\n"
        f"      <contributor><username>A</username></contributor>\n      <model>{model}</model>\n      <format>text/x-wiki</format>\n"
        f'      <text bytes="{len(text)}" xml:space="preserve">{escape(text)}</text>\n    </revision>\n  </page>\n'
    ).encode()


def test_a_page_is_a_document_with_language_and_address_and_the_rest_is_counted() -> None:
    data = b"".join(
        [
            HEAD,
            page("'''Moshi''' ni [[mji]].<ref>x</ref>", "Moshi & Ōta (mji)"),
            page("#REDIRECT [[Moshi]]", "M", extra='    <redirect title="Moshi" />\n'),
            page("majadiliano", "Talk:Moshi", 1),
            page("return {}", "Module:x", 0, model="Scribunto"),
            page("<page> na </page> &amp; &lt;b&gt;", "Alama"),
            TAIL,
        ]
    )
    found = read(wikipedia, CONFIG, data, "x.xml")
    assert [(r.text, r.lang, r.url) for r in records(found)] == [
        ("Moshi ni mji.", "sw", "https://sw.wikipedia.org/wiki/Moshi_&_%C5%8Cta_(mji)"),
        ("na & <b>", "sw", "https://sw.wikipedia.org/wiki/Alama"),
    ]
    assert dropped(found) == ["redirect", "namespace", "content_model"] and not damage(found)
    talk = wikipedia.Config(kind="wikipedia", path="x.xml", namespaces=(0, 1), lang="en")
    assert [r.lang for r in records(read(wikipedia, talk, data, "x.xml"))] == ["en"] * 3


def streams(pages: list[bytes], each: int) -> list[bytes]:
    groups = [b"".join(pages[i : i + each]) for i in range(0, len(pages), each)]
    return [bz2.compress(part) for part in (HEAD, *groups, TAIL)]


def test_a_multistream_dump_is_shared_by_slices_and_each_page_read_once() -> None:
    pages = [page(f"Ukurasa wa {i} — maandishi {i * 7919}.", f"P{i}") for i in range(40)]
    data = b"".join(streams(pages, 7))
    whole = read(wikipedia, CONFIG, data, NAME)
    assert [r.url for r in records(whole)] == [f"https://sw.wikipedia.org/wiki/P{i}" for i in range(40)] and not damage(whole)
    assert len({(r.offset, r.ordinal) for r in records(whole)}) == 40
    for step in (1, 100, 333, 1000):
        assert read(wikipedia, CONFIG, data, NAME, max_bytes=step) == whole, step


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["C"]), max_size=40), max_size=8), st.data())
def test_streams_cut_anywhere_and_slices_cut_anywhere_give_the_same_pages(texts: list[str], data: st.DataObject) -> None:
    plain = HEAD + b"".join(page(text, f"P{i}") for i, text in enumerate(texts)) + TAIL
    cuts = sorted(data.draw(st.lists(st.integers(0, len(plain)), max_size=6)))
    parts = [plain[a:b] for a, b in zip([0, *cuts], [*cuts, len(plain)], strict=True)]
    packed = b"".join(map(bz2.compress, parts))
    expected = [r.text for r in records(read(wikipedia, CONFIG, plain, "x.xml"))]
    assert len(expected) == len(texts)
    whole = read(wikipedia, CONFIG, packed, NAME)
    assert [r.text for r in records(whole)] == expected and not damage(whole)
    step = data.draw(st.integers(1, len(packed)))
    assert read(wikipedia, CONFIG, packed, NAME, max_bytes=max(step, len(packed) // 20)) == whole
    uncut = read(wikipedia, CONFIG, plain, "x.xml")
    assert read(wikipedia, CONFIG, plain, "x.xml", max_bytes=data.draw(st.integers(len(plain) // 20 + 1, len(plain)))) == uncut
    assert read(wikipedia, CONFIG, b"".join(map(gzip.compress, parts)), "x.xml.gz", max_bytes=10) == uncut


@pytest.mark.parametrize("step", [1 << 30, 200])
def test_a_broken_stream_costs_its_pages_alone(step: int) -> None:
    pages = [page(f"Ukurasa wa {i} {i * 7919}.", f"P{i}") for i in range(12)]
    head, a, b, c, tail = streams(pages, 4)
    broken = bytearray(b)
    broken[len(b) // 2] ^= 0xFF
    found = read(wikipedia, CONFIG, head + a + bytes(broken) + c + tail, NAME, max_bytes=step)
    assert [r.url[-2:].strip("/") for r in records(found) if r.url] == [*(f"P{i}" for i in (0, 1, 2, 3, 8, 9)), "10", "11"]
    lost = [item for item in found if isinstance(item, Damaged)]
    assert [(item.offset, item.length, item.reason) for item in lost] == [(len(head + a), len(b), "corrupt")]


@pytest.mark.parametrize("step", [1 << 30, 150])
def test_a_dump_that_ends_early_says_so(step: int) -> None:
    pages = [page(f"Ukurasa wa {i} {i * 7919}.", f"P{i}") for i in range(8)]
    parts = streams(pages, 4)
    in_stream = read(wikipedia, CONFIG, b"".join(parts[:-1])[:-20], NAME, max_bytes=step)
    assert len(records(in_stream)) >= 4 and [reason for _, reason in damage(in_stream)] == ["truncated"]
    between = read(wikipedia, CONFIG, b"".join(parts[:-1]), NAME, max_bytes=step)
    assert len(records(between)) == 8 and [reason for _, reason in damage(between)] == ["truncated"]
    plain = HEAD + b"".join(pages)
    for cut in (plain, plain[:-30]):
        found = read(wikipedia, CONFIG, cut, "x.xml", max_bytes=step)
        assert [reason for _, reason in damage(found)] == ["truncated"]
        assert len(records(found)) == (8 if cut == plain else 7)
    tail = read(wikipedia, CONFIG, b"".join(parts) + b"garbage behind the end", NAME, max_bytes=step)
    assert len(records(tail)) == 8 and [reason for _, reason in damage(tail)] == ["garbage_tail"]


def test_bombs_of_size_and_of_entities_are_quarantined() -> None:
    small = wikipedia.Config(kind="wikipedia", path="x.xml", max_record_bytes=2000)
    data = HEAD + page("a" * 5000, "Kubwa") + page("b", "Ndogo") + TAIL
    for name, stored in (("x.xml", data), (NAME, bz2.compress(data))):
        found = read(wikipedia, small, stored, name)
        assert [r.text for r in records(found)] == ["b"] and [reason for _, reason in damage(found)] == ["record_too_long"]
    laughs = b'<!DOCTYPE mediawiki [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>\n'
    entity = page("x").replace(b">x<", b">&b;<")
    found = read(wikipedia, CONFIG, laughs + HEAD + entity + page("y") + TAIL, "x.xml")
    assert [r.text for r in records(found)] == ["y"] and [reason for _, reason in damage(found)] == ["bad_xml"]
    zeros = bz2.compress(HEAD) + bz2.compress(b"  <page>" + bytes(80 << 20)) + bz2.compress(page("z") + TAIL)
    found = read(wikipedia, CONFIG, zeros, NAME)
    assert [r.text for r in records(found)] == ["z"]
    assert {reason for _, reason in damage(found)} == {"expansion_ratio"}


def test_markup_leaves_the_text_it_shows() -> None:
    markup = """{{Infobox|jina={{PAGENAME}}}}
'''Moshi''' ni [[mji|miji]] ya ''Tanzania''<ref name="a">{{cite}}</ref><ref name="a" />.<!-- siri -->
[[Picha:A.jpg|thumb|Maelezo ya [[picha]]]][[File:B.png]] Idadi&nbsp;ni 5 &lt; 6.<br/>Mstari mpya.
__TOC__
== Historia ==
* [[Moja]]
# mbili [https://example.org kiungo cha nje]
{| class="wikitable"
! a !! b
|-
| c || d
|}
<gallery>
Picha:x.jpg|maelezo
</gallery><math>x^2</math>
[[Jamii:Miji ya Tanzania]]
[[:Jamii:Miji]] ni jamii."""
    assert text_of(markup, frozenset(("picha", "jamii", "file"))).split("\n") == [
        "Moshi ni miji ya Tanzania.",
        "Idadi\xa0ni 5 < 6.",
        "Mstari mpya.",
        "Moja",
        "mbili kiungo cha nje",
        "Jamii:Miji ni jamii.",
    ]


def test_horrible_text_survives(tmp_path: object) -> None:
    horrible = "\u202eRTL\u2028 zwj\u200d 𝔘𝔫𝔦 ]]>"
    found = read(wikipedia, CONFIG, HEAD + page(horrible) + TAIL, "x.xml")
    assert [type(item) for item in found] == [Record] and records(found)[0].text == horrible
