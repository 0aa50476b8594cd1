"""report: one self-contained page with the evidence of a run, and its figures as JSON.

Every figure comes from the manifests of the stages before it: their ledgers, counts and records, the cards of corpus and vocabulary, the training curve, the scores. What a
pipeline does not have (no fine-tuning, no evaluation) is left out of the page.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.artifacts import (
    CARD,
    CHECKPOINT,
    DECISIONS,
    DOCUMENTS,
    EXAMPLES,
    EXPORTED_MODEL,
    HELDOUT,
    PACKING,
    REPORT,
    SCORES,
    TOKENS,
    VOCABULARY,
)
from pipeline.config import Section
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary

VERSION = 3
LIBRARIES = ("jinja2",)
GRADE = Grade.TRAINING
LEDGERS = True
INPUTS = {
    "documents": Slot(DOCUMENTS, "ingest"),
    "cleaned": Slot(DOCUMENTS, "clean", optional=True),
    "heldout": Slot(HELDOUT, "heldout", optional=True),
    "examples": Slot(EXAMPLES, "examples", optional=True),
    "decisions": Slot(DECISIONS, "dedup"),
    "card": Slot(CARD, "card", optional=True),
    "vocabulary": Slot(VOCABULARY, "vocabulary", optional=True),
    "tokens": Slot(TOKENS, "encode", optional=True),
    "packing": Slot(PACKING, "pack", optional=True),
    "checkpoint": Slot(CHECKPOINT, "pretrain", optional=True),
    "models": Slot(EXPORTED_MODEL, many=True, optional=True),
    "scores": Slot(SCORES, many=True, optional=True),
}
OUTPUT = {"report": REPORT}


class Config(Section):
    """Settings of report."""

    title: str = ""
    """Heading of the page; empty takes the pipeline's name."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Assemble the figures and write the page."""
    from stages.report import work

    return work.run(config, inputs, output, context)
