"""Documents ⋈ Decisions, and Bitext ⋈ Decisions: how every later stage reads the corpus.

Shards of decisions are row-aligned with those of the text; ids are compared row by row, so a misalignment is an error, never a silent shift.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import IntegrityError
from pipeline.manifest import Shard
from pipeline.storage import Storage
from pipeline.tables import open_file, read_table, rows
from pipeline.units import Unit


@dataclass(frozen=True)
class Pairing:
    """A shard of text and its shard of decisions."""

    text: Shard
    decisions: Shard

    def plain(self) -> dict[str, Any]:
        """As plain data, to be given to a worker."""
        return {"text": self.text.plain(), "decisions": self.decisions.plain()}

    def unit(self) -> Unit:
        """The work unit that reads both."""
        return Unit(f"{self.text.sha256}:{self.decisions.sha256}", self.plain(), self.text.bytes, f"shard {self.text.key[:12]}")


def pair_up(text: tuple[Shard, ...], decisions: tuple[Shard, ...]) -> list[Pairing]:
    """Shards of text that hold rows, each with its decisions.

    Raises:
        IntegrityError: the decisions are not those of this text.
    """
    held = [shard for shard in text if shard.rows]
    if [shard.rows for shard in held] != [shard.rows for shard in decisions]:
        raise IntegrityError("the decisions were made for another set of documents; run dedup again with --force dedup.")
    return [Pairing(a, b) for a, b in zip(held, decisions, strict=True)]


def decided(
    storage: Storage, argument: dict[str, Any], columns: tuple[str, ...] | None = None
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows of text with their decisions, in order.

    Raises:
        IntegrityError: a row's ids differ.
    """
    text, decisions = Shard(**argument["text"]), Shard(**argument["decisions"])
    given = rows(storage.local(text.path, text.sha256), columns)
    made = rows(storage.local(decisions.path, decisions.sha256))
    for row, decision in zip(given, made, strict=True):
        if row["id"] != decision["id"]:
            raise IntegrityError(f"{decisions.path}: its rows are not those of {text.path}", path=decisions.path)
        yield row, decision


def decided_batches(storage: Storage, argument: dict[str, Any], columns: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
    """Batches of text with the decisions on their rows, as Arrow record batch and table; `columns` of the text must hold `id`.

    Raises:
        IntegrityError: a row's ids differ.
    """
    text, decisions = Shard(**argument["text"]), Shard(**argument["decisions"])
    reader = open_file(storage.local(text.path, text.sha256))
    made = read_table(storage.local(decisions.path, decisions.sha256))
    start = 0
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number).select(list(columns))
        found = made.slice(start, batch.num_rows).combine_chunks()
        start += batch.num_rows
        if found.num_rows != batch.num_rows or not found["id"].combine_chunks().equals(batch.column("id")):
            raise IntegrityError(f"{decisions.path}: its rows are not those of {text.path}", path=decisions.path)
        yield batch, found


def kept_texts(texts: Any, dropped_lines: Any) -> Any:
    """`kept_text` of a whole column; Arrow large_string. Only texts that lose a line are touched."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = texts.cast(pa.large_string())
    cut = pc.greater(pc.list_value_length(dropped_lines), 0)
    cut = cut.combine_chunks() if isinstance(cut, pa.ChunkedArray) else cut
    if not pc.any(cut).as_py():
        return whole
    chosen = pc.indices_nonzero(cut)
    shorter = [
        kept_text(text, lines) for text, lines in zip(whole.take(chosen).to_pylist(), dropped_lines.take(chosen).to_pylist(), strict=True)
    ]
    return pc.replace_with_mask(whole, cut, pa.array(shorter, pa.large_string()))


def place_of(row: Mapping[str, Any]) -> str:
    """What a document or a pair is called where it is quarantined: its id, and where it stands in its source."""
    return f"id {row['id'].hex()}, {row['source']} at {row['offset']}"


def row_place(batch: Any, row: int) -> str:
    """The same of a row of a record batch."""
    return place_of({name: batch.column(name)[row].as_py() for name in ("id", "source", "offset")})


def kept_text(text: str, dropped_lines: list[int]) -> str:
    """The text of a kept document without its dropped lines."""
    if not dropped_lines:
        return text
    gone = set(dropped_lines)
    return "\n".join(line for number, line in enumerate(text.split("\n")) if number not in gone)
