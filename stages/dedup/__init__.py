"""dedup: decides what is kept of the documents and pairs, and why not; rewrites no text.

In order: rules on measured columns, the language check, held-out text and its translations, decontamination against held-out and dev/test examples, exact
duplicates of documents, exact duplicates of lines. The first that applies gives the reason.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from pipeline.artifacts import BITEXT, DECISIONS, DOCUMENTS, EXAMPLES, HELDOUT, PAIR_DECISIONS
from pipeline.config import Section, known_names
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary
from stages.dedup.rules import RULES

VERSION = 1
LIBRARIES = ("numpy", "pyarrow", "pycld2", "py3langid")
GRADE = Grade.EXACT
INPUTS = {
    "documents": Slot(DOCUMENTS, "clean"),
    "bitext": Slot(BITEXT, "clean", optional=True),
    "heldout": Slot(HELDOUT, "heldout", optional=True),
    "examples": Slot(EXAMPLES, "examples", optional=True),
}
OUTPUT = {"decisions": DECISIONS, "pair_decisions": PAIR_DECISIONS}


class LengthRule(Section):
    """Bounds on length."""

    min_characters: int = Field(20, ge=0)
    """Documents with fewer characters are dropped (too_short)."""
    max_characters: int = Field(1_000_000, ge=1)
    """Documents with more characters are dropped (too_long)."""
    min_words: int = Field(3, ge=0)
    """Documents with fewer words are dropped (too_few_words); estimated in scripts without spaces."""


class RepetitionRule(Section):
    """Bounds on repetition and on what is not text (Gopher, loosened so that they hold for any script)."""

    max_duplicate_line_share: float = Field(0.3, ge=0, le=1)
    """Largest share of lines that stood before in the document (Gopher .30)."""
    max_duplicate_line_characters_share: float = Field(0.2, ge=0, le=1)
    """Largest share of characters in such lines (Gopher .20)."""
    max_top_2gram_share: float = Field(0.2, ge=0, le=1)
    """Largest share of characters in the most frequent 2-gram (Gopher .20); for documents of at least 20 words."""
    min_letters_share: float = Field(0.5, ge=0, le=1)
    """Smallest share of letters and combining marks among visible characters."""
    max_symbol_word_ratio: float = Field(0.1, ge=0)
    """Most # or … per word (Gopher .1)."""


class LanguageRule(Section):
    """When identification overrules the label."""

    min_score: float = Field(0.9, ge=0, le=1)
    """A document identified as another language with at least this confidence is dropped (wrong_language)."""
    min_characters: int = Field(200, ge=0)
    """Shorter documents are not judged."""


class Decontamination(Section):
    """When a training document overlaps evaluation text."""

    ngram: int = Field(13, ge=3, le=64)
    """Length of the n-grams compared, in words (scripts without spaces: units of four characters)."""


class Lines(Section):
    """Duplicate lines over the whole corpus: the first stays."""

    min_characters: int = Field(30, ge=1)
    """Shorter lines may repeat."""


class PairRules(Section):
    """Bounds on pairs; a pair that breaks one is dropped whole."""

    max_length_ratio: float = Field(5.0, ge=1)
    """Largest ratio of characters of the longer to the shorter side, for pairs with a side of at least 40 (OpusFilter: 3, for spaced scripts)."""
    max_characters: int = Field(10_000, ge=1)
    """Largest number of characters a side."""


class Config(Section):
    """Settings of dedup."""

    rules: tuple[str, ...] = ("length", "repetition", "language")
    """Decision rules in the order in which they are asked; see stages/dedup/rules."""

    @field_validator("rules")
    @classmethod
    def _rules_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return known_names(names, RULES, "rule")

    length: LengthRule = LengthRule()
    """Bounds on length."""
    repetition: RepetitionRule = RepetitionRule()
    """Bounds on repetition."""
    language: LanguageRule = LanguageRule()
    """The language check."""
    decontamination: Decontamination = Decontamination()
    """Overlap with evaluation text."""
    lines: Lines | None = Lines()
    """Duplicate lines; null keeps them."""
    pairs: PairRules = PairRules()
    """Rules on pairs."""
    partitions: int = Field(8, ge=1, le=4096)
    """Partitions of the duplicate search; more for a larger corpus."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Decide on all documents and pairs."""
    from stages.dedup import work

    return work.run(config, inputs, output, context)
