"""Rejects: the documents that were dropped, with why and with their text, for reading.

id                 binary(16)  that of the document
lang               string      its label
reason             string      as in Decisions
source, url        string;  offset  int64: where it came from
text               string      after `clean`
"""

from __future__ import annotations

from typing import Any

from pipeline.artifacts.artifact import Artifact


def schema() -> Any:
    """Arrow schema of rejects."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.binary(16), nullable=False),
            pa.field("lang", pa.string(), nullable=False),
            pa.field("reason", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("offset", pa.int64(), nullable=False),
            pa.field("url", pa.string()),
            pa.field("text", pa.string(), nullable=False),
        ]
    )


REJECTS = Artifact("rejects", "the documents that were dropped, with their text", schema)
