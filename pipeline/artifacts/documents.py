"""Documents: one row a document, as ingested; `clean` appends normalised text and measured columns and drops no row.

id                 binary(16)  blake2b-128(source sha256 ‖ decompressed offset ‖ ordinal)
lang               string      BCP-47 code: of the file, the record, or `und`
text               string      as read by `ingest`; NFC and cleaned after `clean`; lines are joined by \\n
source, url, licence, group    string; group is the alignment group (same value = translations of one text), null where there is none
offset             int64       byte offset in the decompressed source (row number in columnar files)
--- after clean, all integers so that no float decides a byte ---
raw_characters                 int32, before cleaning
identified                     string, language that identification names, `und` if none
identified_score               int32, 1/10000
blocked_url                    int32, 1 where the address stands on a block list, else 0; -1 where there is no list
blocked_words                  int32, words of block lists in the text; -1 where there is none for its language
foreign_line_share             int32, 1/10000: characters in lines of another language, of those in all lines that could be judged; -1 where none could
the other names of MEASURES         int32; what each is and its unit stands in `pipeline.text.measures`
"""

from __future__ import annotations

from typing import Any

from pipeline.artifacts.artifact import Artifact

MEASURES = (
    "characters", "words", "non_symbol_words", "lines", "sentences", "curly_brackets", "stop_words",
    "duplicate_line_share", "duplicate_line_characters_share", "duplicate_paragraph_share", "duplicate_paragraph_characters_share",
    "top_2gram_share", "top_3gram_share", "top_4gram_share",
    "duplicate_5gram_share", "duplicate_6gram_share", "duplicate_7gram_share", "duplicate_8gram_share", "duplicate_9gram_share", "duplicate_10gram_share",
    "letters_share", "digits_share", "script_share", "words_with_letters_share", "symbol_word_ratio", "mean_word_length", "longest_word",
    "bullet_line_share", "ellipsis_line_share", "short_line_share", "punctuated_line_share", "newline_word_ratio",
)  # fmt: skip


def schema() -> Any:
    """Arrow schema of ingested documents."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.binary(16), nullable=False),
            pa.field("lang", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("offset", pa.int64(), nullable=False),
            pa.field("url", pa.string()),
            pa.field("licence", pa.string()),
            pa.field("group", pa.string()),
        ]
    )


def cleaned_schema() -> Any:
    """Arrow schema of documents after `clean`."""
    import pyarrow as pa

    measured = [pa.field("raw_characters", pa.int32(), nullable=False)]
    measured += [pa.field(name, pa.int32(), nullable=False) for name in MEASURES]
    measured += [pa.field("identified", pa.string(), nullable=False), pa.field("identified_score", pa.int32(), nullable=False)]
    measured += [pa.field(name, pa.int32(), nullable=False) for name in ("blocked_url", "blocked_words")]
    measured += [pa.field("foreign_line_share", pa.int32(), nullable=False)]
    return pa.schema([*schema(), *measured])


DOCUMENTS = Artifact("documents", "text of documents, one row each", schema)
