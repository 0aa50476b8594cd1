"""clean: normalises and measures every document and pair; drops none.

Each text goes through the rules named in `rules`, in order, then is measured, sought in block lists, and its language identified. Whether it is kept is decided later
(`dedup`), from the measured columns, so a decision can be redone without touching text. `show FILE clean profile` times the parts of the work.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from pipeline.artifacts import BITEXT, DOCUMENTS
from pipeline.config import NonEmpty, Section, known_names, outside
from pipeline.sources import Source
from pipeline.stage import Context, Grade, Input, ListContext, Output, Slot, Summary, Timing
from pipeline.text.languages import lookup
from stages.clean.rules import DEFAULT, RULES

VERSION = 5
LIBRARIES = ("ftfy", "pycld2", "py3langid", "pyarrow")
GRADE = Grade.EXACT
INPUTS = {"documents": Slot(DOCUMENTS, "ingest"), "bitext": Slot(BITEXT, "ingest", optional=True)}
OUTPUT = {"documents": DOCUMENTS, "bitext": BITEXT}


class Config(Section):
    """Settings of clean."""

    rules: tuple[str, ...] = Field(DEFAULT, min_length=1)
    """Text rules in the order in which they are applied; see stages/clean/rules."""

    identify: bool = True
    """Whether the language of each document, and of each side of a pair, is identified; the rule `language` of dedup judges none without it."""
    identify_lines: bool = True
    """Whether long lines are identified too, for the rule `foreign_lines` of dedup."""
    identify_model: NonEmpty | None = outside(None)
    """fastText model (lid.176, GlotLID, …) that identifies in place of pycld2 and py3langid; needs the extra `fasttext`. Its content is part of the key."""
    stop_words: dict[str, tuple[str, ...]] = Field({"en": ("the", "be", "to", "of", "and", "that", "have", "with")})
    """Stop words by language, spelled as they stand in text; those present are counted for the rule `gopher` (its eight English ones by default)."""

    blocked_urls: NonEmpty | None = outside(None)
    """File or pattern of files of domains and addresses, one a line; documents from there are marked for the rule `blocklist` of dedup."""
    blocked_words: NonEmpty | None = outside(None)
    """File of words and phrases, one a line, or a pattern with {lang} for a file a language; those in a text are counted for the rule `blocklist` of dedup."""

    @field_validator("stop_words")
    @classmethod
    def _languages_are_known(cls, words: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return {lookup(lang).code: listed for lang, listed in words.items()}

    @field_validator("rules")
    @classmethod
    def _rules_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return known_names(names, RULES, "rule")


def list_inputs(config: Config, context: ListContext) -> list[Source]:
    """The files of the block lists and the identification model, whose content is part of the key."""
    found: list[Source] = []
    if config.blocked_urls is not None or config.blocked_words is not None:
        from stages.clean import listing

        found += listing.list_files(config, context)
    if config.identify_model is not None:
        from stages.clean import models

        found += models.list_models(config, context)
    return found


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Clean and measure all documents and pairs."""
    from stages.clean import work

    return work.run(config, inputs, output, context)


def profile(config: Config, inputs: Mapping[str, Input], sample_bytes: int) -> list[Timing]:
    """What each rule, the measures and identification take on a sample of the documents."""
    from stages.clean import timing

    return timing.profile(config, inputs, sample_bytes)
