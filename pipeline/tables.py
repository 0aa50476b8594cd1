"""Arrow files: written batch by batch, read memory-mapped; the same rows, given in the same way, are the same bytes.

Readers are the schemas of `pipeline.artifacts`. Files are Arrow IPC without compression unless told otherwise, so that they can be mapped.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from pipeline.errors import IntegrityError

ROWS_PER_BATCH = 4096
BYTES_PER_BATCH = 8 << 20
"""Text of a batch of a `CutTable`: a reader holds no more at once, however long documents are (one alone may be longer)."""


class TableWriter:
    """Collects rows (mappings of plain values) or whole batches and writes them in batches of a fixed number of rows."""

    def __init__(self, writer: Any, schema: pa.Schema, rows_per_batch: int = ROWS_PER_BATCH) -> None:
        self._writer, self._schema, self._rows_per_batch = writer, schema, rows_per_batch
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.names}
        self._waiting = 0
        self.rows = 0

    def row(self, values: Mapping[str, Any]) -> None:
        """Add a row; a column left out is null.

        Raises:
            KeyError: a value of no column of the schema.
        """
        if not values.keys() <= self._columns.keys():
            raise KeyError(f"{sorted(values.keys() - self._columns.keys())}: the table has the columns {list(self._columns)}")
        for name, column in self._columns.items():
            column.append(values.get(name))
        self._waiting += 1
        self.rows += 1
        if self._waiting >= self._rows_per_batch:
            self.flush()

    def batch(self, columns: Mapping[str, Any] | pa.RecordBatch | pa.Table) -> None:
        """Add many rows at once."""
        self.flush()
        table = pa.table(dict(columns), schema=self._schema) if isinstance(columns, Mapping) else columns
        table = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
        for piece in table.combine_chunks().to_batches(max_chunksize=ROWS_PER_BATCH):
            self._write(piece)
        self.rows += table.num_rows

    def partition(self, columns: Mapping[str, Any]) -> None:
        """Add one record batch as it is, even if empty: batch p of the file is partition p."""
        self.flush()
        batch = pa.record_batch([pa.array(columns[f.name], type=f.type) for f in self._schema], schema=self._schema)
        self._write(batch)
        self.rows += batch.num_rows

    def flush(self) -> None:
        """Write what is waiting."""
        if self._waiting:
            arrays = [pa.array(self._columns[f.name], type=f.type) for f in self._schema]
            self._write(pa.record_batch(arrays, schema=self._schema))
            self._columns = {name: [] for name in self._schema.names}
            self._waiting = 0

    def _write(self, batch: pa.RecordBatch) -> None:
        # Arrow itself writes a null into a column that forbids it.
        for field in self._schema:
            if not field.nullable and batch.column(field.name).null_count:
                raise ValueError(f"the column {field.name!r} may hold no null")
        self._writer.write_batch(batch)


class CutTable:
    """Writes rows in batches of bounded size, and goes on in a new file where the one that is open would hold more than `max_bytes` of text.

    So what one worker reads as a stream is shared by many in the next stage. Where the cuts fall hangs on the rows alone. A row is a tuple in the order of
    the schema's columns, a string as UTF-8 where that is at hand; `files` opens file 0, 1, …, each when the one before is closed.
    """

    def __init__(self, files: Callable[[int], AbstractContextManager[TableWriter]], schema: pa.Schema, max_bytes: int) -> None:
        self._files, self._schema, self._max_bytes = files, schema, max_bytes
        self._stack = ExitStack()
        self._writer = self._stack.enter_context(files(0))
        self._number = 0
        self._waiting: list[tuple[Any, ...]] = []
        self._batch_bytes = self._file_bytes = 0

    def row(self, values: tuple[Any, ...], size: int) -> None:
        """Add a row that holds `size` bytes of text."""
        if self._file_bytes + size > self._max_bytes and self._file_bytes:
            self._flush()
            self._stack.close()
            self._number += 1
            self._writer = self._stack.enter_context(self._files(self._number))
            self._file_bytes = 0
        elif len(self._waiting) >= ROWS_PER_BATCH or (self._batch_bytes + size > BYTES_PER_BATCH and self._waiting):
            self._flush()
        self._waiting.append(values)
        self._batch_bytes += size
        self._file_bytes += size

    def _flush(self) -> None:
        if self._waiting:
            columns = zip(*self._waiting, strict=True)
            arrays = [_array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            self._writer.batch(pa.record_batch(arrays, schema=self._schema))
            self._waiting, self._batch_bytes = [], 0

    def __enter__(self) -> CutTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._flush()
        self._stack.__exit__(kind, error, trace)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values as a column. Strings that were encoded already are laid one behind the other: Arrow would check each, which takes ten times as long."""
    if not pa.types.is_string(kind) or not isinstance(values[0], bytes):
        return pa.array(values, type=kind)
    data, offsets = b"".join(values), array("i", (0, *accumulate(map(len, values))))
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(data))


@contextmanager
def write_table(
    path: Path, schema: pa.Schema, *, compression: str | None = None, rows_per_batch: int = ROWS_PER_BATCH
) -> Iterator[TableWriter]:
    """Write an Arrow IPC file at a local path."""
    options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
        table = TableWriter(writer, schema, rows_per_batch)
        yield table
        table.flush()


def open_file(path: Path) -> pa.ipc.RecordBatchFileReader:
    """A memory-mapped reader of an Arrow IPC file.

    Raises:
        IntegrityError: it is not one, or is cut short.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path), "r"))
    except (pa.ArrowInvalid, OSError) as error:
        raise IntegrityError(f"{path}: not a whole Arrow file: {error}", path=str(path)) from None


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole file as a table over mapped memory."""
    table = open_file(path).read_all()
    return table.select(list(columns)) if columns is not None else table


def rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows as plain values, a batch at a time."""
    reader = open_file(path)
    for index in range(reader.num_record_batches):
        batch = reader.get_batch(index)
        if columns is not None:
            batch = batch.select(list(columns))
        yield from batch.to_pylist()


def utf8(column: pa.Array) -> tuple[Any, Any]:
    """The bytes of a string column without nulls, uint8, and where each value begins and the last ends, int64, shape (rows + 1,)."""
    import numpy as np

    texts = column.cast(pa.large_string()) if column.type != pa.large_string() else column
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    held = texts.buffers()[2]
    return np.frombuffer(held, np.uint8) if held is not None else np.zeros(0, np.uint8), offsets
