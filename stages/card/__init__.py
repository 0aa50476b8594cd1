"""card: what the corpus held and what became of it, per language and pair of languages, as one JSON file with plots.

Documents are counted as read, as cleaned and as decided on; the ledgers of every stage between are laid one behind the other, and per language what one stage
gave must be what the next one took. Samples show what each rule dropped, drawn by a keyed hash of ids.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from pipeline.artifacts import BITEXT, CARD, DECISIONS, DOCUMENTS, PAIR_DECISIONS
from pipeline.config import Section
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary

VERSION = 2
LIBRARIES = ("pyarrow",)
GRADE = Grade.EXACT
LEDGERS = True
INPUTS = {
    "documents": Slot(DOCUMENTS, "ingest"),
    "cleaned": Slot(DOCUMENTS, "clean"),
    "decisions": Slot(DECISIONS, "dedup"),
    "bitext": Slot(BITEXT, "ingest", optional=True),
    "cleaned_bitext": Slot(BITEXT, "clean", optional=True),
    "pair_decisions": Slot(PAIR_DECISIONS, "dedup", optional=True),
}
OUTPUT = {"card": CARD}


class Config(Section):
    """Settings of card."""

    samples: int = Field(8, ge=0, le=1000)
    """Samples of what each reason dropped."""
    samples_per_language: int = Field(2, ge=1)
    """Most of them in one language (or pair)."""
    sample_characters: int = Field(200, ge=1, le=10_000)
    """Characters of a sample's text; the rest is cut."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Count, check the sums, write the card and its plots."""
    from stages.card import work

    return work.run(config, inputs, output, context)
