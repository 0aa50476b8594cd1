"""Arrow files: what is written is read, the same rows are the same bytes, damage is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.artifacts.documents import schema as documents
from pipeline.errors import IntegrityError
from pipeline.tables import ROWS_PER_BATCH, open_file, read_table, rows, write_table

SCHEMA = pa.schema(
    [
        pa.field("id", pa.binary(16), nullable=False), pa.field("text", pa.string(), nullable=False), pa.field("url", pa.string()),
        pa.field("keep", pa.bool_()), pa.field("lines", pa.list_(pa.int32())), pa.field("n", pa.uint16()),
    ]
)  # fmt: skip


def row(number: int) -> dict[str, Any]:
    horrible = ["", "\x00", "a\u2028b", "\U0001f600", "ы" * (number % 50), "\r\n\t\"'<&>"]
    return {
        "id": number.to_bytes(16, "big"),
        "text": horrible[number % 6],
        "url": None if number % 3 else f"https://x/{number}",
        "keep": [True, False, None][number % 3],
        "lines": None if number % 5 == 0 else list(range(number % 4)),
        "n": number % 65536,
    }


def write(path: Path, values: list[dict[str, Any]], how: str, **options: Any) -> bytes:
    with write_table(path, SCHEMA, **options) as writer:
        if how == "rows":
            for value in values:
                writer.row(value)
        elif how == "columns":
            writer.batch({name: [value[name] for value in values] for name in SCHEMA.names})
        else:
            writer.batch(pa.Table.from_pylist(values, schema=SCHEMA))
        writer.flush()
        assert writer.rows == len(values)
    return path.read_bytes()


@pytest.mark.parametrize("count", [0, 1, ROWS_PER_BATCH, ROWS_PER_BATCH + 1, 2 * ROWS_PER_BATCH + 77])
def test_rows_columns_and_tables_come_back_and_the_same_way_gives_the_same_bytes(tmp_path: Path, count: int) -> None:
    values = [row(number) for number in range(count)]
    written = {how: write(tmp_path / how, values, how) for how in ("rows", "columns", "table")}
    assert written == {how: write(tmp_path / f"{how}-again", values, how) for how in written}
    assert written["columns"] == written["table"]
    if count <= ROWS_PER_BATCH:  # beyond, Arrow pads the strings of a slice otherwise than those of an array
        assert written["rows"] == written["columns"]
    for how in written:
        assert list(rows(tmp_path / how)) == values
        assert read_table(tmp_path / how).to_pylist() == values
        assert read_table(tmp_path / how).schema == SCHEMA


def test_reading_some_columns_gives_those_in_the_order_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "t", [row(1), row(2)], "rows")
    assert list(rows(tmp_path / "t", ["n", "text"])) == [{"n": 1, "text": row(1)["text"]}, {"n": 2, "text": row(2)["text"]}]
    assert read_table(tmp_path / "t", ["n", "text"]).column_names == ["n", "text"]


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compression_changes_the_bytes_and_not_the_rows(tmp_path: Path, compression: str) -> None:
    values = [row(number) for number in range(500)]
    packed = write(tmp_path / "packed", values, "rows", compression=compression)
    assert len(packed) < len(write(tmp_path / "plain", values, "rows"))
    assert list(rows(tmp_path / "packed")) == values


def test_partitions_are_the_batches_of_the_file_even_when_empty(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int32())])
    with write_table(tmp_path / "t", schema) as writer:
        for part in ([1, 2], [], [3]):
            writer.partition({"n": part})
        assert writer.rows == 3
    reader = open_file(tmp_path / "t")
    assert [reader.get_batch(index).to_pydict()["n"] for index in range(reader.num_record_batches)] == [[1, 2], [], [3]]


def test_a_value_of_no_column_is_refused_and_not_lost(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="txet"), write_table(tmp_path / "t", SCHEMA) as writer:
        writer.row({**row(1), "txet": "x"})


@pytest.mark.parametrize("how", ["rows", "columns", "partition"])
def test_a_null_where_none_may_be_is_refused(tmp_path: Path, how: str) -> None:
    value = {**row(1), "text": None}
    with pytest.raises(ValueError, match="'text' may hold no null"), write_table(tmp_path / "t", SCHEMA) as writer:
        if how == "partition":
            writer.partition({name: [value[name]] for name in SCHEMA.names})
        elif how == "rows":
            writer.row(value)
        else:
            writer.batch({name: [value[name]] for name in SCHEMA.names})


def test_a_table_of_another_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises((pa.ArrowInvalid, KeyError)), write_table(tmp_path / "t", SCHEMA) as writer:
        writer.batch(pa.table({"other": [1]}))


def test_the_schema_of_an_artifact_can_be_written_and_read(tmp_path: Path) -> None:
    value = {"id": b"\1" * 16, "lang": "no", "text": "på", "source": "a.txt", "offset": 2**40, "url": None, "licence": None, "group": None}
    with write_table(tmp_path / "t", documents()) as writer:
        writer.row(value)
    assert list(rows(tmp_path / "t")) == [value]


@pytest.mark.parametrize("damage", ["empty", "cut", "footer", "text", "missing"])
def test_a_file_that_is_not_whole_is_an_integrity_error_that_names_it(tmp_path: Path, damage: str) -> None:
    whole = write(tmp_path / "t", [row(number) for number in range(100)], "rows")
    path = tmp_path / "damaged.arrow"
    contents = {"empty": b"", "cut": whole[: len(whole) // 2], "footer": whole[:-20], "text": b"hello world, this is no arrow"}
    if damage != "missing":
        path.write_bytes(contents[damage])
    with pytest.raises(IntegrityError, match=r"damaged\.arrow: not a whole Arrow file") as caught:
        open_file(path)
    assert caught.value.path == str(path)
