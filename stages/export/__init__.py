"""export: a checkpoint and its vocabulary as a Hugging Face directory that opens with no code of ours; verified before it is published.

Every line of a sample of the corpus must get the same ids from the exported tokenizer as from sentencepiece, and the reopened model the same logits as ours
(1e-5); else nothing is exported.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from pipeline.artifacts import CHECKPOINT, DOCUMENTS, EXPORTED_MODEL, VOCABULARY
from pipeline.config import Section
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary

VERSION = 1
LIBRARIES = ("safetensors", "sentencepiece", "tokenizers", "torch", "transformers")
GRADE = Grade.EXACT
INPUTS = {
    "checkpoint": Slot(CHECKPOINT, "pretrain"),
    "vocabulary": Slot(VOCABULARY, "vocabulary"),
    "documents": Slot(DOCUMENTS, "clean"),
}
OUTPUT = {"model": EXPORTED_MODEL}


class Config(Section):
    """Settings of export."""

    lines_per_language: int = Field(20, ge=1)
    """Lines of each language on which the exported tokenizer is compared with sentencepiece."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Export and verify."""
    from stages.export import work

    return work.run(config, inputs, output, context)
