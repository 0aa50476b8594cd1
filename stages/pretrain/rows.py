"""Packed rows as a rank reads them: the index from the packing, the ids memory-mapped from the token shards."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pipeline.errors import IntegrityError
from pipeline.manifest import Shard
from pipeline.storage import Storage
from pipeline.tables import open_file
from pipeline.training.packed_rows import PackedRows


def packed_rows(storage: Storage, packing: list[dict[str, Any]], tokens: list[dict[str, Any]]) -> dict[str, dict[str, PackedRows]]:
    """split -> language -> rows. `packing` and `tokens` are shards as plain data; nothing is copied into memory.

    Raises:
        IntegrityError: a packing names a token shard that is not there.
    """
    by_sha = {plain["sha256"]: Shard(**plain) for plain in tokens}
    flat: dict[str, np.ndarray[Any, Any]] = {}
    found: dict[str, dict[str, PackedRows]] = {}
    for plain in packing:
        shard = Shard(**plain)
        if not shard.rows:
            continue
        path = storage.local(shard.path, shard.sha256)
        reader = open_file(path)
        about = json.loads(reader.schema.metadata[b"packing"])
        for sha256 in about["token_shards"]:
            if sha256 not in by_sha:
                raise IntegrityError(f"{path}: it was made for other tokens; run pack again with --force pack", path=str(path))
            if sha256 not in flat:
                flat[sha256] = _flat_ids(storage, by_sha[sha256])
        if reader.num_record_batches != 1:
            raise IntegrityError(
                f"{path}: {reader.num_record_batches} batches, one was written; run pack again with --force pack", path=str(path)
            )
        column = reader.get_batch(0).column("spans")
        spans = column.values
        found.setdefault(about["split"], {})[about["lang"]] = PackedRows(
            tuple(flat[sha256] for sha256 in about["token_shards"]),
            column.offsets.to_numpy(),
            spans.field("shard").to_numpy(),
            spans.field("start").to_numpy(),
            spans.field("length").to_numpy(),
            about["length"],
            about["spans_a_text"],
        )
    return found


def _flat_ids(storage: Storage, shard: Shard) -> np.ndarray[Any, Any]:
    """All ids of a token shard as one mapped array."""
    path = storage.local(shard.path, shard.sha256)
    reader = open_file(path)
    if reader.num_record_batches != 1:
        raise IntegrityError(
            f"{path}: {reader.num_record_batches} batches, one was written; run encode again with --force encode", path=str(path)
        )
    values: np.ndarray[Any, Any] = reader.get_batch(0).column("ids").values.to_numpy(zero_copy_only=True)
    return values
