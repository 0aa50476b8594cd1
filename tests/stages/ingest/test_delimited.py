"""CSV and tab-separated tables: quoted line ends, named columns, any cut the same, a bad row quarantined."""

from __future__ import annotations

import csv
import gzip
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import ConfigError
from stages.ingest.records import Record
from stages.ingest.sources import delimited, text
from tests.stages.ingest.reading import damage, read, records


def table(**fields: Any) -> delimited.Config:
    return delimited.Config(kind="csv", path="x.csv", **fields)


def written(rows: list[list[str]], **options: Any) -> bytes:
    out = io.StringIO()
    csv.writer(out, **options).writerows(rows)
    return out.getvalue().encode()


def test_named_columns_become_the_fields_of_a_record() -> None:
    data = b'\xef\xbb\xbfid,text,lang,url,rights\r\n7,"Karibu,\r\n""rafiki"".",sw,https://x.org,CC0\r\n\r\n8,plain,,,\r\n'
    config = table(lang_column="lang", group_column="id", url_column="url", licence_column="rights", licence="CC BY")
    assert read(delimited, config, data, "x.csv", lang="en") == [
        Record(28, 0, 'Karibu,\n"rafiki".', "sw", "7", "https://x.org", "CC0"),
        Record(77, 0, "plain", "en", "8", None, "CC BY"),
    ]
    assert delimited.languages_of is not None


def test_without_a_header_columns_are_numbers_and_tabs_mean_no_quotes() -> None:
    config = table(delimiter="\t", header=False, text_column=1, lang_column=0)
    found = records(read(delimited, config, b'en\tsay "yes\nsw\tsema "ndio"\n', "x.tsv"))
    assert [(r.lang, r.text) for r in found] == [("en", 'say "yes'), ("sw", 'sema "ndio"')]
    semicolon = records(read(delimited, table(delimiter=";"), b'n;text\n1;"a;b"\n', "x.csv"))
    assert [r.text for r in semicolon] == ["a;b"]


CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"', '""', "\n", ",\n", "\r\n", 'x"\ny', "\x00", "\u2028"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), max_size=12), st.integers(1, 60))
def test_any_cut_of_a_quoted_table_gives_the_rows_that_were_written(rows: list[tuple[str, str]], step: int) -> None:
    data = written([["text", "group"], *map(list, rows)], quoting=csv.QUOTE_ALL)
    config = table(group_column="group")
    whole = read(delimited, config, data, "x.csv")
    assert [(r.text, r.group) for r in records(whole)] == [(a.replace("\r\n", "\n"), b.replace("\r\n", "\n") or None) for a, b in rows]
    assert read(delimited, config, data, "x.csv", max_bytes=step) == whole
    members = b"".join(gzip.compress(data[at : at + step]) for at in range(0, len(data), step))  # a chunk each
    assert read(delimited, config, members, "x.csv.gz", max_bytes=1) == whole
    assert len({r.offset for r in records(whole)}) == len(rows)


@pytest.mark.parametrize("step", [1 << 30, 7])
def test_bad_rows_are_quarantined_with_their_place(step: int) -> None:
    data = b'n,text\n1,ok\n2\n3,"a"b\n4,\xff\n5,"' + b"x" * 60 + b'"\n6,fine\n'
    found = read(delimited, table(max_record_bytes=40), data, "x.csv", max_bytes=step)
    assert [r.text for r in records(found)] == ["ok", "fine"]
    assert damage(found) == [(12, "too_few_columns"), (14, "bad_csv"), (21, "invalid_utf8"), (25, "record_too_long")]
    unclosed = read(delimited, table(), b'text\nok\n"never\nclosed\n', "x.csv", max_bytes=step)
    assert [r.text for r in records(unclosed)] == ["ok"] and damage(unclosed) == [(8, "truncated")]
    packed = gzip.compress(data)
    assert damage(read(delimited, table(), packed[:-9], "x.csv.gz"))[-1][1] == "truncated"
    assert damage(read(delimited, table(), "a".encode("utf-16"), "x.csv", max_bytes=step)) == [(0, "utf16")]


def test_wrong_columns_are_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="column 'text' is not there; the file has 'a', 'b'"):
        read(delimited, table(), b"a,b\n1,2\n", "x.csv")
    with pytest.raises(ConfigError, match="given twice"):
        read(delimited, table(), b"text,text\n1,2\n", "x.csv")
    with pytest.raises(ValidationError, match="header is false: give its number"):
        table(header=False)
    with pytest.raises(ValidationError, match="cannot part columns"):
        table(delimiter='"')


def test_a_table_of_nothing_is_no_damage() -> None:
    for data in (b"", b"text\n", b"\n\n"):
        assert read(delimited, table(), data, "x.csv") == []


def test_text_in_the_way_of_cc100_is_documents_between_blank_lines() -> None:
    import lzma

    config = text.Config(kind="text", path="{lang}.txt.xz", documents="blank-line")
    data = "Hapo zamani\npalikuwa na mfalme.\n\nHadithi ya pili\u2028 hapa.\n\n".encode()
    found = read(text, config, lzma.compress(data), "sw.txt.xz", lang="sw", max_bytes=5)
    assert [(r.text, r.lang) for r in records(found)] == [("Hapo zamani\npalikuwa na mfalme.", "sw"), ("Hadithi ya pili\u2028 hapa.", "sw")]
    several = lzma.compress(data[:20]) + lzma.compress(data[20:])
    assert read(text, config, several, "sw.txt.xz", lang="sw") == found
    cut = read(text, config, lzma.compress(data * 5000)[:-40], "sw.txt.xz", lang="sw")
    assert damage(cut)[0][1] == "truncated" and records(cut) == records(cut)[: len(records(cut))]
    assert len(records(cut)) + 1 <= 10_000
