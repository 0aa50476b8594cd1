"""encode: documents and pairs as token ids, a shard of tokens for each shard of text; the only copy of the tokens.

Each document is cut into sentences, each sentence encoded on its own; the ends are kept, so packing can be redone from offsets alone. Held-out documents are
encoded too, marked by their split.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.artifacts import BITEXT, DECISIONS, DOCUMENTS, PAIR_DECISIONS, PAIR_TOKENS, TOKENS, VOCABULARY
from pipeline.config import Section
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary

VERSION = 2
LIBRARIES = ("pyarrow", "sentencepiece")
GRADE = Grade.EXACT
INPUTS = {
    "documents": Slot(DOCUMENTS, "clean"),
    "decisions": Slot(DECISIONS, "dedup"),
    "bitext": Slot(BITEXT, "clean", optional=True),
    "pair_decisions": Slot(PAIR_DECISIONS, "dedup", optional=True),
    "vocabulary": Slot(VOCABULARY, "vocabulary"),
}
OUTPUT = {"tokens": TOKENS, "pair_tokens": PAIR_TOKENS}


class Config(Section):
    """Settings of encode: none; how text becomes tokens is the vocabulary's affair."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Encode all kept documents and pairs."""
    from stages.encode import work

    return work.run(config, inputs, output, context)
