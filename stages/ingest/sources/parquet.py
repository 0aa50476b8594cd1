"""Parquet: a row is a document, its columns named in the configuration; the offset of a record is its row number in the file.

A slice is a byte range like any other and owns the row groups whose first page starts in it, so that files can be cut with no look
at their footers. A row group is read in small batches of the wanted columns alone. A file whose footer cannot be read is
quarantined whole, by its first slice; a row group whose pages cannot be read is quarantined from its first undelivered row
(`corrupt`), and the next one goes on. A null text is `missing_text`. Text is taken as bytes and decoded strictly, whatever the
column's declared type promises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pipeline.config import NonEmpty
from pipeline.errors import ConfigError
from stages.ingest.records import Damaged, Record, Slice, SourceFile
from stages.ingest.sources.base import OpenRaw, SourceConfig, byte_slices, compression_for, stated_languages
from stages.ingest.streams import decode

_BATCH_ROWS = 256  # a dictionary-encoded batch may hold one long text in each row
_FREE_BYTES = 64 << 20


class Config(SourceConfig):
    """Parquet files."""

    kind: Literal["parquet"]
    """Parquet."""
    text_column: NonEmpty = "text"
    """Column of the text."""
    lang_column: NonEmpty | None = None
    """Column of the language; `lang` and `{lang}` serve where it is null."""
    group_column: NonEmpty | None = None
    """Column of what aligns a document with its translations; text or whole numbers."""
    url_column: NonEmpty | None = None
    """Column of the document's address."""
    licence_column: NonEmpty | None = None
    """Column of the document's own licence."""


def languages_of(file: SourceFile, config: Config) -> tuple[str, ...] | None:
    """The file's own language; None where `lang_column` lets each record say its own."""
    return None if config.lang_column is not None else stated_languages(file, config)


def slices(file: SourceFile, config: Config, max_bytes: int) -> list[Slice]:
    """Byte ranges; each owns the row groups that start in it, which may be none."""
    return byte_slices(file, max_bytes)


def read(open_raw: OpenRaw, file: SourceFile, part: Slice, config: Config) -> Iterator[Record | Damaged]:
    """The records of the row groups that start in the slice.

    Raises:
        ConfigError: the file lacks a column, or has it in another type; the message names those it has.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if compression_for(file, config) != "none":
        raise ConfigError(
            f"source {file.name}: a Parquet file is compressed within; unpack it, or set compression: none if only its name says so."
        )
    with open_raw() as raw:
        try:
            opened = pq.ParquetFile(raw, pre_buffer=False, buffer_size=1 << 20)
            metadata, schema = opened.metadata, opened.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            if part.start == 0:
                yield Damaged(0, None, "corrupt", True, f"Parquet footer: {error}", 0)
            return
        columns = _columns(schema, file, config)
        row = 0
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            if part.start <= _first_byte(group) and (part.stop is None or _first_byte(group) < part.stop):
                yield from _row_group(opened, index, row, group, columns, file, config)
            row += group.num_rows


def _first_byte(group: Any) -> int:
    """Where the first page of a row group lies; 0 for a group with no column."""
    if group.num_columns == 0:
        return 0
    starts = []
    for index in range(group.num_columns):
        column = group.column(index)
        dictionary = column.dictionary_page_offset
        starts.append(min(column.data_page_offset, dictionary) if dictionary else column.data_page_offset)
    return int(min(starts))


def _columns(schema: Any, file: SourceFile, config: Config) -> dict[str, str]:
    """Field of a record -> column, for those that are configured."""
    import pyarrow as pa

    named = {
        "text": config.text_column,
        "lang": config.lang_column,
        "group": config.group_column,
        "url": config.url_column,
        "licence": config.licence_column,
    }
    wanted = {field: column for field, column in named.items() if column is not None}
    for field, column in wanted.items():
        if schema.names.count(column) != 1:
            what = "no column" if column not in schema.names else "more than one column"
            raise ConfigError(
                f"source {file.name}: {field}_column: {what} {column!r}; the file has {', '.join(map(repr, schema.names)) or 'none'}."
            )
        kind = schema.field(column).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        texts = (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
        )
        if not (any(test(kind) for test in texts) or (field == "group" and pa.types.is_integer(kind)) or pa.types.is_null(kind)):
            raise ConfigError(f"source {file.name}: {field}_column: column {column!r} is {kind}; text is wanted.")
    return wanted


def _row_group(
    opened: Any, index: int, first_row: int, group: Any, columns: dict[str, str], file: SourceFile, config: Config
) -> Iterator[Record | Damaged]:
    import pyarrow as pa

    row, end = first_row, first_row + group.num_rows
    stored = sum(group.column(i).total_compressed_size for i in range(group.num_columns))
    allowed = max(_FREE_BYTES, config.max_expansion * stored)
    if group.total_byte_size > allowed:
        yield Damaged(row, end - row, "expansion_ratio", False, f"row group {index}: {group.total_byte_size} bytes out of {stored}")
        return
    grown = 0
    try:
        for batch in opened.iter_batches(batch_size=_BATCH_ROWS, row_groups=[index], columns=list(dict.fromkeys(columns.values()))):
            values = {field: _bytes_of(batch.column(batch.schema.get_field_index(column))) for field, column in columns.items()}
            for at in range(batch.num_rows):
                item = _record(row, {field: column[at].as_py() for field, column in values.items()}, file, config)
                row += 1
                grown += len(item.text) if isinstance(item, Record) else item.length or 0
                if grown > allowed:
                    yield Damaged(
                        row - 1, end - row + 1, "expansion_ratio", False, f"row group {index}: more than {allowed} bytes out of {stored}"
                    )
                    return
                yield item
    except (pa.ArrowException, OSError, ValueError) as error:
        yield Damaged(row, end - row, "corrupt", False, f"row group {index}: {error}")
        return
    if row != end:
        yield Damaged(row, end - row, "truncated", False, f"row group {index}: {row - first_row} rows of {group.num_rows}")


def _bytes_of(column: Any) -> Any:
    """A column as bytes (whole numbers as their decimal digits), nulls kept."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        column = column.cast(pa.string())
    return column.cast(pa.large_binary())


def _record(row: int, values: dict[str, bytes | None], file: SourceFile, config: Config) -> Record | Damaged:
    decoded: dict[str, str | None] = {}
    for field, value in values.items():
        if value is None:
            decoded[field] = None
            continue
        if field == "text" and len(value) > config.max_record_bytes:
            return Damaged(row, 1, "record_too_long", False, f"{len(value)} bytes")
        readable = decode(value)
        if isinstance(readable, Damaged):
            return Damaged(row, 1, readable.reason, False, f"{field}: {readable.detail}")
        decoded[field] = readable
    text = decoded["text"]
    if text is None:
        return Damaged(row, 1, "missing_text", False, f"{config.text_column!r} is null")
    lang = decoded.get("lang") or config.lang or file.lang
    return Record(row, 0, text, lang, decoded.get("group"), decoded.get("url"), decoded.get("licence") or config.licence)
