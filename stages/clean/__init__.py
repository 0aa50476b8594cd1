"""clean: normalises and measures every document and pair; drops none.

Each text goes through the rules named in `rules`, in order, then is measured and its language identified. Whether it is kept is decided later (`dedup`),
from the measured columns, so a decision can be redone without touching text.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from pipeline.artifacts import BITEXT, DOCUMENTS
from pipeline.config import NonEmpty, Section, known_names, outside
from pipeline.stage import Context, Grade, Input, ListContext, Output, Slot, Summary
from pipeline.storage import Source
from pipeline.text.languages import lookup
from stages.clean.rules import RULES

VERSION = 3
LIBRARIES = ("pycld2", "py3langid", "pyarrow")
GRADE = Grade.EXACT
INPUTS = {"documents": Slot(DOCUMENTS, "ingest"), "bitext": Slot(BITEXT, "ingest", optional=True)}
OUTPUT = {"documents": DOCUMENTS, "bitext": BITEXT}


class Config(Section):
    """Settings of clean."""

    rules: tuple[str, ...] = Field(("markup", "normalise"), min_length=1)
    """Text rules in the order in which they are applied; see stages/clean/rules."""

    identify: bool = True
    """Whether the language of each document is identified; the rule `language` of dedup judges none without it."""
    identify_lines: bool = True
    """Whether long lines are identified too, for the rule `foreign_lines` of dedup."""
    identify_model: NonEmpty | None = outside(None)
    """fastText model (lid.176, GlotLID, …) that identifies in place of pycld2 and py3langid; needs the extra `fasttext`. Its content is part of the key."""
    stop_words: dict[str, tuple[str, ...]] = Field({"en": ("the", "be", "to", "of", "and", "that", "have", "with")})
    """Stop words by language, spelled as they stand in text; those present are counted for the rule `gopher` (its eight English ones by default)."""

    @field_validator("stop_words")
    @classmethod
    def _languages_are_known(cls, words: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return {lookup(lang).code: listed for lang, listed in words.items()}

    @field_validator("rules")
    @classmethod
    def _rules_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return known_names(names, RULES, "rule")


def list_inputs(config: Config, context: ListContext) -> list[Source]:
    """The identification model, whose content is part of the key."""
    if config.identify_model is None:
        return []
    from stages.clean import models

    return models.list_models(config, context)


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Clean and measure all documents and pairs."""
    from stages.clean import work

    return work.run(config, inputs, output, context)
