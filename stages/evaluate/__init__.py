"""evaluate: scores a task model on the test split of a set, per language, beside its baselines.

Accuracy and macro-F1 with 95% bootstrap intervals: per language, in the mean over the languages it was not fine-tuned on (zero-shot), and over those it was.
Baselines: the majority class of the training labels, and the same encoder fine-tuned alike but never pretrained.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from pipeline.artifacts import BASELINE_MODEL, EXAMPLES, EXPORTED_MODEL, SCORES
from pipeline.config import NonEmpty, Section, outside
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary

VERSION = 1
LIBRARIES = ("numpy", "torch", "transformers")
GRADE = Grade.TRAINING
GLOBALS = ("seed",)
INPUTS = {
    "model": Slot(EXPORTED_MODEL, "finetune"),
    "baseline": Slot(BASELINE_MODEL, "finetune", optional=True),
    "examples": Slot(EXAMPLES, "examples"),
}
OUTPUT = {"scores": SCORES}
DEFAULT = False
NAMES = {"examples": ("examples", "sets")}


class Config(Section):
    """Settings of evaluate."""

    examples: NonEmpty
    """Name of the set of examples."""
    split: str = "test"
    """Split that is scored."""
    max_length: int = Field(128, ge=8)
    """Most tokens of an example."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples of the intervals."""
    batch: int = outside(32, ge=1)
    """Examples per forward pass."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Predict and score."""
    from stages.evaluate import work

    return work.run(config, inputs, output, context)
