"""Parity: pieces that a language takes for what English says in one, on documents of one alignment group (Petrov et al. 2023 call it the premium).

    documents ⋈ decisions -> groups drawn by a keyed hash -> pieces of each document -> by language: Σ pieces / Σ pieces of English over the groups that both have

At most about 20,000 documents are encoded, whatever the size of the corpus. In 1/10,000; languages that share no drawn group with English are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from pipeline.corpus import decided_batches, kept_text
from pipeline.storage import Storage
from pipeline.tables import rows
from pipeline.task import Task
from pipeline.text.hashing import hash64, share_below
from pipeline.text.tokenizer import Tokenizer

AGAINST = "en"
MOST_DOCUMENTS = 20_000
SIZES = pa.schema(
    [
        pa.field("group", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("pieces", pa.int64(), nullable=False),
    ]
)


def share_of(documents: int) -> int:
    """Share of groups that is drawn, in millionths."""
    return min(1_000_000, MOST_DOCUMENTS * 1_000_000 // max(1, documents))


@lru_cache(maxsize=2)
def opened(root: str, path: str, sha256: str) -> Tokenizer:
    """Worker: a vocabulary in the storage, opened once for all units."""
    return Tokenizer(Storage.at(root).local(path, sha256).read_bytes())


def count_pieces(task: Task) -> None:
    """Worker: pieces of the drawn documents of a shard."""
    tokenizer = opened(task.storage.root, task.given["path"], task.given["sha256"])
    with task.table("sizes", SIZES) as table:
        for batch, decisions in decided_batches(task.storage, task.argument, ("id", "lang", "group", "text")):
            groups, langs = batch.column("group").to_pylist(), batch.column("lang").to_pylist()
            keep, dropped = decisions["keep"].to_pylist(), decisions["dropped_lines"]
            for row in task.records(range(batch.num_rows), langs.__getitem__):
                drawn = (
                    groups[row] is not None and keep[row] and share_below(hash64(groups[row], "vocabulary parity"), task.settings["share"])
                )
                if not drawn:
                    task.ledger.drop(langs[row], "not_drawn")
                    continue
                text = kept_text(batch.column("text")[row].as_py(), dropped[row].as_py())
                table.row({"group": groups[row], "lang": langs[row], "pieces": sum(map(len, tokenizer.encode(text.split("\n"))))})
                task.ledger.keep(langs[row])


def parity(paths: Iterable[Path]) -> dict[str, int]:
    """Pieces against English's in 1/10,000, by language."""
    held: dict[str, dict[str, int]] = {}
    for path in paths:
        for row in rows(path):
            own = held.setdefault(row["group"], {})
            own[row["lang"]] = own.get(row["lang"], 0) + row["pieces"]
    sums: dict[str, list[int]] = {}
    for own in held.values():
        for lang, pieces in own.items():
            if own.get(AGAINST):
                found = sums.setdefault(lang, [0, 0])
                found[0] += pieces
                found[1] += own[AGAINST]
    return {lang: pieces * 10_000 // english for lang, (pieces, english) in sorted(sums.items())}


def longest(tokenizer: Tokenizer, most: int = 30) -> list[str]:
    """The longest pieces, of equal length the first by id: what a corpus repeats too often shows here."""
    pieces: Mapping[int, str] = {index: piece for index, piece in enumerate(tokenizer.pieces()) if tokenizer.is_ordinary(index)}
    return [pieces[index] for index in sorted(pieces, key=lambda index: (-len(pieces[index]), index))[:most]]
