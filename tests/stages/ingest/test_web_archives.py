"""WET and WARC: pages with their addresses, whatever the cut; what is no page is counted, what is broken costs itself."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.ingest.records import Damaged, Record
from stages.ingest.sources import warc, wet
from tests.stages.ingest.reading import damage, dropped, read, records

WET = wet.Config(kind="wet", path="x.wet")
WARC = warc.Config(kind="warc", path="x.warc", lang="sw")


def record(kind: str, body: bytes, **fields: str) -> bytes:
    named = {"WARC-Type": kind, **{name.replace("_", "-"): value for name, value in fields.items()}, "Content-Length": str(len(body))}
    return b"WARC/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in named.items()).encode() + b"\r\n" + body + b"\r\n\r\n"


def page(body: bytes, head: str = "HTTP/1.1 200 OK\r\nContent-Type: text/html", **fields: str) -> bytes:
    return record("response", head.encode() + b"\r\n\r\n" + body, WARC_Target_URI="https://example.org/a", **fields)


HTML = (
    "<html><body><nav><a href=/>Home</a></nav><article><h1>Moshi</h1><p>Mji ulio karibu na mlima, wenye watu wengi.</p>"
    "<p>ภาษาไทย ni lugha nyingine.</p></article><footer>Copyright</footer></body></html>"
)


def test_a_conversion_record_is_a_document_with_address_and_language() -> None:
    data = record("warcinfo", b"software: x") + record(
        "conversion", b"Habari\r\nza leo\n", WARC_Target_URI="https://x.org/?a=1", WARC_Identified_Content_Language="swa,eng"
    )
    found = read(wet, WET, data, "x.wet")
    assert dropped(found) == ["record_type"]
    assert records(found) == [Record(len(record("warcinfo", b"software: x")), 0, "Habari\nza leo", "swa", None, "https://x.org/?a=1")]
    unlabelled = wet.Config(kind="wet", path="x.wet", identified_language=False)
    assert records(read(wet, unlabelled, data, "x.wet", lang="sw"))[0].lang == "sw"
    assert wet.languages_of is not None and read(wet, WET, b"", "x.wet") == []


def test_archives_of_one_member_a_record_read_like_plain_ones() -> None:
    parts = [record("conversion", f"ukurasa {i} …\n".encode()) for i in range(50)]
    plain = read(wet, WET, b"".join(parts), "x.warc.wet")
    assert len(records(plain)) == 50
    packed = b"".join(map(gzip.compress, parts))
    assert read(wet, WET, packed, "x.warc.wet.gz", max_bytes=10) == plain
    cut = read(wet, WET, packed[:-30], "x.warc.wet.gz")
    assert records(cut) == plain[:49] and damage(cut) == [(plain[49].offset, "truncated")]


BODY = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(str.encode),
    st.just(record("conversion", b"quoted")),  # a page about archives
    st.just(b"\r\n\r\nWARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 7\r\n\r\n"),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(BODY, max_size=8), st.integers(1, 200), st.integers(20, 80))
def test_any_cut_gives_the_same_documents_and_none_is_lost(bodies: list[bytes], step: int, limit: int) -> None:
    config = wet.Config(kind="wet", path="x.wet", max_record_bytes=limit)
    data = b"".join(record("conversion", body) for body in bodies)
    whole = read(wet, config, data, "x.wet")
    assert read(wet, config, data, "x.wet", max_bytes=step) == whole
    members = b"".join(gzip.compress(data[at : at + step]) for at in range(0, max(1, len(data)), step))  # a chunk each
    assert read(wet, config, members, "x.wet.gz") == whole
    assert len(whole) == len(bodies)
    for item, body in zip(whole, bodies, strict=True):
        if isinstance(item, Damaged):
            assert item.reason == ("record_too_long" if len(body) > limit else "invalid_utf8")


@pytest.mark.parametrize("step", [1, 40, 1 << 30])
def test_a_broken_frame_costs_what_lies_before_the_next_record(step: int) -> None:
    first, second = record("conversion", b"first one"), record("conversion", b"the second one")
    lying = first.replace(b"Content-Length: 9", b"Content-Length: 4")
    found = read(wet, WET, lying + second + b"junk\r\n\r\n" + first + b"tail", "x.wet", max_bytes=step)
    assert [r.text for r in records(found)] == ["firs", "the second one", "first one"]
    assert [reason for _, reason in damage(found)] == ["bad_frame"] * 3
    assert sum(item.length or 0 for item in found if isinstance(item, Damaged) and not item.rest_of_stream) < 30
    negative = record("conversion", b"x").replace(b"Content-Length: 1", b"Content-Length: -1")
    assert damage(read(wet, WET, negative, "x.wet", max_bytes=step)) == [(0, "bad_frame")]


def test_a_record_that_ends_early_is_truncated_and_the_rest_of_the_file_lost() -> None:
    data = record("conversion", b"one") + record("conversion", b"two two two")
    *found, last = read(wet, WET, data[:-8], "x.wet")
    assert [r.text for r in records(found)] == ["one"]
    assert isinstance(last, Damaged) and (last.reason, last.rest_of_stream, last.stored_offset) == ("truncated", True, last.offset)


def test_a_page_gives_its_main_text_and_what_is_no_page_is_counted() -> None:
    data = b"".join(
        [
            record("request", b"GET / HTTP/1.1\r\n\r\n"),
            page(HTML.encode()),
            page(b"gone", "HTTP/1.1 404 Not Found\r\nContent-Type: text/html"),
            page(b"\x89PNG", "HTTP/1.1 200 OK\r\nContent-Type: image/png"),
            page(b"plain text", "HTTP/1.1 200 OK\r\nContent-Type: text/plain"),
            page(b"x", "no status"),
        ]
    )
    found = read(warc, WARC, data, "x.warc")
    assert dropped(found) == ["record_type", "http_status", "media_type"]
    assert [reason for _, reason in damage(found)] == ["bad_http"]
    main, plain = records(found)
    assert main.text.split("\n") == ["Moshi", "Mji ulio karibu na mlima, wenye watu wengi.", "ภาษาไทย ni lugha nyingine."]
    assert (main.url, main.lang, plain.text) == ("https://example.org/a", "sw", "plain text")
    assert read(warc, WARC, data, "x.warc", max_bytes=100) == found
    everything = warc.Config(kind="warc", path="x", main_content=False)
    assert "Copyright" in records(read(warc, everything, data, "x.warc"))[0].text


@pytest.mark.parametrize(
    ("declared", "meta", "codec"),
    [
        ("; charset=windows-1251", "", "cp1251"),
        ("", '<meta charset="koi8-r">', "koi8-r"),
        ("; charset=iso-8859-1", "", "utf-8"),  # declared wrongly: valid UTF-8 is UTF-8
        ("; charset=ISO-2022-JP", "", "iso-2022-jp"),
        ("", "", "utf-16"),
        ("; charset=bogus", "", "utf-8"),
    ],
)
def test_characters_are_those_that_the_page_was_written_in(declared: str, meta: str, codec: str) -> None:
    said = "日本語のページです。" if "jp" in codec else "Это страница на русском языке, довольно длинная."
    body = f"<html><head>{meta}</head><body><p>{said}</p></body></html>".encode(codec)
    found = read(warc, WARC, page(body, f"HTTP/1.1 200 OK\r\nContent-Type: text/html{declared}"), "x.warc")
    assert [r.text for r in records(found)] == [said]


def test_bodies_that_are_still_chunked_or_compressed_are_unpacked_under_a_limit() -> None:
    whole = records(read(warc, WARC, page(HTML.encode()), "x.warc"))[0].text
    packed = gzip.compress(HTML.encode())
    chunked = b"".join(f"{len(packed[i : i + 50]):x}\r\n".encode() + packed[i : i + 50] + b"\r\n" for i in range(0, len(packed), 50))
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: {}\r\nTransfer-Encoding: chunked"
    for body, encoding in ((chunked + b"0\r\n\r\n", "gzip"), (HTML.encode(), "gzip"), (zlib.compress(HTML.encode()), "deflate")):
        assert [r.text for r in records(read(warc, WARC, page(body, head.format(encoding)), "x.warc"))] == [whole]
    bomb = page(gzip.compress(bytes(40 << 20)), head.format("gzip"))
    assert [reason for _, reason in damage(read(warc, WARC, bomb, "x.warc"))] == ["record_too_long"]


def test_a_page_nested_without_end_or_in_no_charset_is_quarantined_quickly() -> None:
    deep = page(b"<div>" * 50_000 + b"text")
    unclosed = page(b"<p>text</p>" + b"<a" * 400_000)
    no_text = page(bytes(range(128, 256)) * 20 + b"\x81\x8d\x8f", "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=euc-kr")
    found = read(warc, WARC, deep + unclosed + no_text, "x.warc")
    reasons = [reason for _, reason in damage(found)]
    assert "nested_too_deeply" in reasons and len(found) == 3


def test_a_page_the_crawler_cut_short_loses_no_more_than_a_character() -> None:
    body = ("<p>" + "ภาษาไทย" * 20).encode()[:-1]
    assert [
        reason for _, reason in damage(read(warc, WARC, page(body, "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8"), "x"))
    ] != []
    found = records(read(warc, WARC, page(body, WARC_Truncated="length"), "x.warc"))
    assert found[0].text.startswith("ภาษาไทย")
