"""Decisions: row-aligned with Documents (or Bitext): what is kept, and why not. Redone without rewriting any text.

id             binary(16)     equal to the row's id (checked when joined)
keep           bool           whether the row goes on (its split says where to)
reason         string         why it is dropped; empty where kept
split          string         train, or heldout
dropped_lines  list<int32>    line numbers (from 0) removed from a kept document
cluster        binary(16)     id of the survivor of its duplicates (its own id where it has none)
cluster_size   int32          number of documents in that cluster
"""

from __future__ import annotations

from typing import Any

from pipeline.artifacts.artifact import Artifact


def schema() -> Any:
    """Arrow schema of decisions."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.binary(16), nullable=False),
            pa.field("keep", pa.bool_(), nullable=False),
            pa.field("reason", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("dropped_lines", pa.list_(pa.int32()), nullable=False),
            pa.field("cluster", pa.binary(16), nullable=False),
            pa.field("cluster_size", pa.int32(), nullable=False),
        ]
    )


DECISIONS = Artifact("decisions", "what is kept of the documents, and why not", schema)
PAIR_DECISIONS = Artifact("pair_decisions", "what is kept of the bitext, and why not", schema)
