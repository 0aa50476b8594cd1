"""Packing: an index from training rows to spans of the token shards; it holds no token. One file a (language, split).

    spans   list<struct<shard: uint32, start: uint64, length: uint32>>   start counts tokens from the beginning of the shard's flat ids

A row as trained is `<s> span </s> span </s> …`. `shard` counts in the order of `token_shards` in the schema's metadata (JSON: sha256 of each);
the metadata also holds `lang`, `split`, `length` (tokens a row, special tokens included) and `spans_a_text`: 2 for pairs (`lang` is "en-sw" then), whose sides are
two spans that are read as one text, else 1. A file is one record batch, so that it can be mapped as it lies.
"""

from __future__ import annotations

from typing import Any

from pipeline.artifacts.artifact import Artifact


def schema() -> Any:
    """Arrow schema of a packing."""
    import pyarrow as pa

    span = pa.struct(
        [
            pa.field("shard", pa.uint32(), nullable=False),
            pa.field("start", pa.uint64(), nullable=False),
            pa.field("length", pa.uint32(), nullable=False),
        ]
    )
    return pa.schema([pa.field("spans", pa.list_(pa.field("item", span, nullable=False)), nullable=False)])


PACKING = Artifact("packing", "which spans of tokens make a training row", schema)
PAIR_PACKING = Artifact("pair_packing", "which pairs of spans make a row of translation pairs", schema)
