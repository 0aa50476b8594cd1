"""Bitext: one row a pair of texts that are translations of each other.

id                binary(16)  as for documents
group             string      alignment group, null where there is none
lang_a, lang_b    string      BCP-47 codes
text_a, text_b    string      NFC after `clean`
source, licence   string;  offset int64, byte offset in the decompressed source
"""

from __future__ import annotations

from typing import Any

from pipeline.artifacts.artifact import Artifact


def schema() -> Any:
    """Arrow schema of bitext."""
    import pyarrow as pa

    names = ("lang_a", "lang_b", "text_a", "text_b", "source")
    return pa.schema(
        [
            pa.field("id", pa.binary(16), nullable=False),
            pa.field("group", pa.string()),
            *(pa.field(name, pa.string(), nullable=False) for name in names),
            pa.field("offset", pa.int64(), nullable=False),
            pa.field("licence", pa.string()),
        ]
    )


BITEXT = Artifact("bitext", "pairs of translations, one row each", schema)
