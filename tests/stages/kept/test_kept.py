"""Kept documents as JSON lines."""

import json
from pathlib import Path

import pyarrow as pa
import zstandard

from pipeline.artifacts import decisions, documents
from pipeline.storage import Storage
from pipeline.tables import write_table
from pipeline.task import NONE_APART, Task
from stages.kept import work

TEXTS = ['He said "no".\nIt was late.', "dropped", "one\ntwo\nthree", "日本語\\"]
KEEP = [True, False, True, True]
DROPPED = [[], [], [1], []]


def _shard(storage: Storage, name: str, schema: pa.Schema, columns: dict) -> dict:
    path = storage.temporary()
    with write_table(path, schema) as table:
        table.batch(columns)
    published = storage.publish(path, name)
    return {"key": "0" * 64, "path": published.path, "sha256": published.sha256, "bytes": published.bytes, "rows": len(TEXTS)}


def _written(folder: Path, compression: str) -> tuple[bytes, Task]:
    storage = Storage.at(str(folder), "attempt")
    ids = pa.array([bytes([n]) * 16 for n in range(len(TEXTS))], pa.binary(16))
    text = {
        "id": ids, "lang": ["en", "en", "en", "ja"], "text": TEXTS, "source": ["a.txt"] * 4, "offset": [0, 1, 2, 3], "url": ["u", None, None, None],
        "licence": [None] * 4, "group": [None] * 4,
    }  # fmt: skip
    made = {
        "id": ids, "keep": KEEP, "reason": ["", "too_short", "", ""], "split": ["train"] * 4, "dropped_lines": pa.array(DROPPED, pa.list_(pa.int32())),
        "cluster": ids, "cluster_size": pa.array([1] * 4, pa.int32()),
    }  # fmt: skip
    argument = {
        "text": _shard(storage, "text.arrow", documents.schema(), text),
        "decisions": _shard(storage, "made.arrow", decisions.schema(), made),
    }
    task = Task(storage, "kept", "write", "1" * 64, "documents", argument, {"compression": compression}, {}, NONE_APART, None)
    work.write(task)
    task.publish()
    (path,) = folder.glob("units/kept/write/*/*.kept")
    return path.read_bytes(), task


def test_kept_documents_are_written_whole_without_their_dropped_lines_and_all_are_counted(tmp_path: Path) -> None:
    written, task = _written(tmp_path, "none")
    found = [json.loads(line) for line in written.decode().splitlines()]
    assert [row["text"] for row in found] == [TEXTS[0], "one\nthree", TEXTS[3]]
    assert found[0] == {"text": TEXTS[0], "id": "00" * 16, "lang": "en", "source": "a.txt", "offset": 0, "url": "u"}
    task.ledger.check("kept", 4)
    assert (task.ledger.kept, task.ledger.dropped) == (3, {"not_kept": 1})


def test_compressed_lines_are_the_plain_ones(tmp_path: Path) -> None:
    packed, _ = _written(tmp_path / "zst", "zst")
    plain, _ = _written(tmp_path / "none", "none")
    assert zstandard.ZstdDecompressor().stream_reader(packed).read() == plain
