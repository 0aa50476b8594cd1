"""Rows of packed text as they are trained on: an index of spans over mapped token ids, read for many languages at once.

    PackedRows (one a language: row -> spans -> ids in shards) ──RowReader──▶ row (language, number) as <s> span </s> span </s> … <pad>

Nothing is copied but what a batch holds: a reader keeps the addresses of mapped arrays, and the kernels check every offset before they follow it.

Legend: B rows asked for, T places, R rows of a packing, S spans, L languages, K shards of all languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.text.packing import EOS, PAD
from pipeline.training import kernels

I16 = npt.NDArray[np.int16]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.integer]

ANY_ID = 1 << 40
"""A vocabulary size that every id is below."""


@dataclass(frozen=True, eq=False)
class PackedRows:
    """The packing of one language over its token shards; the arrays may be memory-mapped."""

    shards: tuple[npt.NDArray[np.integer], ...]
    """Flat token ids without special tokens, one array a shard."""
    row_offsets: Indices
    """[R+1] row r has the spans row_offsets[r] … row_offsets[r+1] − 1."""
    span_shard: Indices
    """[S] index into `shards`."""
    span_start: Indices
    """[S] in tokens, within the shard."""
    span_length: Indices
    """[S] in tokens."""
    length: int
    """Places of a row, special tokens included."""
    spans_a_text: int = 1
    """Spans that are read as one text: 2 for pairs, whose sides see each other."""

    def __len__(self) -> int:
        return len(self.row_offsets) - 1

    def num_special(self, rows: Indices | None = None) -> I64:
        """[B] how many tokens of each row are `<s>` or `</s>`; of all rows when none are named."""
        return self._measured(rows)[1]

    def row_lengths(self, rows: Indices | None = None) -> I64:
        """[B] tokens of each row with `<s>` and `</s>`, without padding; of all rows when none are named."""
        return self._measured(rows)[0]

    def gather(self, rows: Indices) -> tuple[I64, I64, I16]:
        """ids [B, length], lengths [B] and segments [B, length] of rows; see `RowReader`."""
        language_B, row_B = np.zeros(len(rows), np.int32), np.asarray(rows, np.int64)
        lengths_B, _ = self._reader.measure(language_B, row_B)
        gathered = self._reader.gather(language_B, row_B, self.length)
        return gathered.ids_BT, lengths_B, gathered.segments_BT

    def _measured(self, rows: Indices | None) -> tuple[I64, I64]:
        row_B = np.arange(len(self), dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
        return self._reader.measure(np.zeros(len(row_B), np.int32), row_B)

    @cached_property
    def _reader(self) -> RowReader:
        return RowReader([self])


class Gathered(NamedTuple):
    """Rows with special tokens and padding."""

    ids_BT: I64
    """Token ids; 1 on padding."""
    segments_BT: I16
    """The number of the text within the row that each token belongs to (`<s>` to the first), −1 on padding: attention kept within equal segments treats the
    documents of a row as if they were alone."""
    positions_BT: I64
    """2, 3, … on tokens and 1 on padding; with `restart` each span begins at 2 again."""
    sides_BT: I64 | None = None
    """Of rows of pairs, where somebody asked: 0 on tokens of the first side of their pair as stored and 1 on those of the second."""


class RowReader:
    """Reads rows of several packings of one length."""

    def __init__(self, packings: Sequence[PackedRows]) -> None:
        """packings: those of the languages that `language_B` numbers from 0. Opens nothing and copies nothing whose type is the artifact's."""
        self._packings = tuple(packings)
        self._held: list[npt.NDArray[Any]] = []  # what the addresses below point into
        self._kind = np.zeros(1, np.uint16 if all(s.dtype == np.uint16 for p in self._packings for s in p.shards) else np.uint32)
        columns = (("row_offsets", np.int32), ("span_shard", np.uint32), ("span_start", np.uint64), ("span_length", np.uint32))
        self._address_L4 = np.array([[self._hold(getattr(p, name), np.dtype(t)) for name, t in columns] for p in self._packings], np.intp)
        self._rows_L = np.array([len(p) for p in self._packings], np.int64)
        self._spans_L = np.array([min(len(p.span_shard), len(p.span_start), len(p.span_length)) for p in self._packings], np.int64)
        self._spans_a_text_L = np.array([p.spans_a_text for p in self._packings], np.int64)
        self._first_shard_L1 = np.cumsum([0, *(len(p.shards) for p in self._packings)], dtype=np.int64)
        at: dict[int, int] = {}  # languages share shards
        for shard in (shard for p in self._packings for shard in p.shards):
            if id(shard) not in at:
                at[id(shard)] = self._hold(shard, self._kind.dtype)
        self._shard_address_K = np.array([at[id(shard)] for p in self._packings for shard in p.shards], np.intp)
        self._shard_tokens_K = np.array([len(shard) for p in self._packings for shard in p.shards], np.int64)

    def measure(self, language_B: npt.NDArray[np.int32], row_B: I64) -> tuple[I64, I64]:
        """[B] tokens of each row with `<s>` and `</s>`, padding not counted, and [B] how many of them are `<s>` or `</s>`. Reads no token.

        Raises:
            ValueError: there is no such row, or it has no span or more than its length.
        """
        length = self._packings[0].length if self._packings else 0
        fault, at, lengths_B, special_B = kernels.measure(self._address_L4, self._rows_L, self._spans_L, length, language_B, row_B)
        if fault:
            raise self._error(fault, int(language_B[at]), int(row_B[at]), int(lengths_B[at]), 0)
        return lengths_B, special_B

    def gather(
        self, language_B: npt.NDArray[np.int32], row_B: I64, places: int, *, vocab_size: int = ANY_ID, restart: bool = False
    ) -> Gathered:
        """Rows as trained, of which `measure` found none longer than `places`.

        Raises:
            ValueError: a span outside its shard, a structure id (`<s>`, `<pad>`, `</s>`) among a document's ids, or an id of `vocab_size` − 1 or more.
        """
        shape = (len(row_B), places)
        found = Gathered(np.empty(shape, np.int64), np.empty(shape, np.int16), np.empty(shape, np.int64))
        fault, at, value = kernels.gather(
            self._address_L4, self._rows_L, self._spans_L, self._first_shard_L1, self._shard_address_K, self._shard_tokens_K, self._kind,
            language_B, row_B, self._spans_a_text_L, restart, vocab_size, *found[:3],
        )  # fmt: skip
        if fault:
            raise self._error(fault, int(language_B[at]), int(row_B[at]), int(value), vocab_size)
        return found

    def _hold(self, array: npt.NDArray[Any], kind: np.dtype[Any]) -> int:
        """The address of an array's values as `kind`."""
        held = np.ascontiguousarray(array, kind)
        if held.size and int(array[-1]) != int(held[-1]):
            raise ValueError(f"a packing's values do not fit {kind}: pack again")
        self._held.append(held)
        return int(held.ctypes.data)

    def _error(self, fault: int, language: int, row: int, value: int, vocab_size: int) -> ValueError:
        own = self._packings[language]
        text = {
            kernels.NO_ROW: f"row {row} is asked for; there are 0..{len(own) - 1}",
            kernels.NO_SPAN: "gather: a row has no span; the packing is damaged: pack again",
            kernels.TOO_LONG: f"gather: a row has {value} tokens, more than its {own.length}; pack again",
            kernels.NO_SHARD: f"gather: a span lies in shard {value} of {len(own.shards)}; pack again",
            kernels.OUTSIDE: "gather: a span lies outside its shard; packing and tokens do not belong together: pack again",
            kernels.STRUCTURE_ID: f"gather: a document holds an id of 0..{EOS} (<s>, <pad>, </s>); tokens are stored without: encode again",
            kernels.UNKNOWN_ID: f"a row holds id {value}; the vocabulary has ids 0..{vocab_size - 2} and <mask> {vocab_size - 1}: "
            "tokens and vocabulary do not belong together",
        }
        return ValueError(text[fault])


def attention_of(positions_BT: I64) -> Bool:
    """[B, T] True on tokens, False on padding."""
    return positions_BT != PAD
