"""vocabulary: one shared BPE vocabulary (a sentencepiece model) from exact word counts over the whole kept corpus.

    documents, bitext ⋈ decisions -> count (map): words per language into P partitions -> merge (reduce, one a partition)
        -> train: weights n_lang^(α−1) in fixed point, merges of the weighted words -> measure (a unit a partition): fertility, unknown and byte-fallback rate

n_lang is the language's characters after normalisation (Conneau & Lample 2019 draw sentences with p ∝ n^α; weighting counts does it without a draw).
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from pipeline.artifacts import BITEXT, DECISIONS, DOCUMENTS, PAIR_DECISIONS, VOCABULARY
from pipeline.config import Section, outside
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary

VERSION = 3
LIBRARIES = ("numba", "pyarrow", "sentencepiece")
GRADE = Grade.EXACT
INPUTS = {
    "documents": Slot(DOCUMENTS, "clean"),
    "decisions": Slot(DECISIONS, "dedup"),
    "bitext": Slot(BITEXT, "clean", optional=True),
    "pair_decisions": Slot(PAIR_DECISIONS, "dedup", optional=True),
}
OUTPUT = {"vocabulary": VOCABULARY}


class Config(Section):
    """Settings of vocabulary."""

    size: int = Field(64_000, ge=300, le=2_000_000)
    """Ids in all, special ones and <mask> included."""
    alpha: float = Field(0.3, ge=0, le=1)
    """Exponent of the sampling over languages: 1 as in the corpus, 0 all alike (XLM-R 0.3)."""
    byte_fallback: bool = True
    """Spend 256 ids so that no text is unknown."""
    coverage: float = Field(0.9995, ge=0.98, le=1)
    """Share of characters, over the weighted mix, that get an id of their own."""
    language_coverage: float = Field(0.999, ge=0, le=1)
    """Share of characters that gets ids within each language on its own, so that no rare script is left to bytes."""
    split_digits: bool = True
    """Never join two digits in one piece."""
    bitext: bool = True
    """Count both sides of the bitext; false where the same text also comes as documents."""
    max_words: int = Field(50_000_000, ge=1_000)
    """Most distinct words, by language, that are trained on; of more, the rarest by weighted count are left out, and their share of the mass is reported."""
    partitions: int | None = Field(None, ge=1, le=4096)
    """Partitions of the word counts; none takes 8, or more for a corpus of more than 2 GiB."""
    memory: int | None = outside(None, gt=0)
    """Bytes of memory that the training task reserves; none estimates it from the number of words."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Count, weight, train, and write the card."""
    from stages.vocabulary import work

    return work.run(config, inputs, output, context)
