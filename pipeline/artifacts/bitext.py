"""Bitext: one row a pair of texts that are translations of each other.

id                binary(16)  as for documents
group             string      alignment group, null where there is none
lang_a, lang_b    string      BCP-47 codes
text_a, text_b    string      NFC after `clean`
source, licence   string;  offset int64, byte offset in the decompressed source
--- after clean, all integers so that no float decides a byte ---
identical         int32       1 where both sides are the same text, else 0
    for each side, `_a` and `_b`:
the names of PAIR_MEASURES              int32; what each is and its unit stands in `pipeline.text.measures`
numerals                                int64, the digits that stand in the text (`pipeline.text.numerals`)
identified, identified_score            string, language that identification names (`und` if none), and int32, 1/10000
"""

from __future__ import annotations

from typing import Any

from pipeline.artifacts.artifact import Artifact

PAIR_MEASURES = ("characters", "words", "lines", "longest_word", "letters_share", "script_share")
SIDES = ("a", "b")


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


def cleaned_schema() -> Any:
    """Arrow schema of bitext after `clean`."""
    import pyarrow as pa

    measured = [pa.field("identical", pa.int32(), nullable=False)]
    for side in SIDES:
        measured += [pa.field(f"{name}_{side}", pa.int32(), nullable=False) for name in PAIR_MEASURES]
        measured.append(pa.field(f"numerals_{side}", pa.int64(), nullable=False))
        measured += [
            pa.field(f"identified_{side}", pa.string(), nullable=False),
            pa.field(f"identified_score_{side}", pa.int32(), nullable=False),
        ]
    return pa.schema([*schema(), *measured])


BITEXT = Artifact("bitext", "pairs of translations, one row each", schema)
