"""Tokens: one row a document, ids in the narrowest unsigned type, uncompressed so that it is memory-mapped. The only copy of the tokens.

id          binary(16)
lang        string          language of the row (of side a for a pair)
lang_b      string          language of side b, null for a document
split       string          train or heldout
ids         large_list<uint16 | uint32>   token ids without special tokens; side a then side b for a pair
sentences   large_list<uint32>            end of each sentence within `ids`; the last equals its length
side_a      uint32          number of ids that belong to side a (all of them for a document)
"""

from __future__ import annotations

from typing import Any

from pipeline.artifacts.artifact import Artifact


def schema(vocabulary_size: int = 1 << 16) -> Any:
    """Arrow schema of tokens for a vocabulary of this size."""
    import pyarrow as pa

    ids = pa.uint16() if vocabulary_size <= 1 << 16 else pa.uint32()
    return pa.schema(
        [
            pa.field("id", pa.binary(16), nullable=False),
            pa.field("lang", pa.string(), nullable=False),
            pa.field("lang_b", pa.string()),
            pa.field("split", pa.string(), nullable=False),
            pa.field("ids", pa.large_list(pa.field("item", ids, nullable=False)), nullable=False),
            pa.field("sentences", pa.large_list(pa.field("item", pa.uint32(), nullable=False)), nullable=False),
            pa.field("side_a", pa.uint32(), nullable=False),
        ]
    )


TOKENS = Artifact("tokens", "encoded documents and pairs, one row each", schema)
PAIR_TOKENS = Artifact("pair_tokens", "encoded pairs, side a then side b", schema)
