"""The settings of `dedup` that are about pairs: which rules, their bounds, which pairs count as duplicates."""

from __future__ import annotations

from pydantic import Field, field_validator

from pipeline.config import Section, known_names
from stages.dedup.pair_rules import PAIR_RULES


class LengthRule(Section):
    """Bounds on the length of a side."""

    min_words: int = Field(1, ge=0)
    """Sides with fewer words are too short (pair_short); estimated in scripts without spaces."""
    max_words_per_line: int = Field(150, ge=1)
    """Most words a line, on average over the side's lines, so that whole paragraphs pass (pair_long). OpusFilter's 100 cuts languages that write particles apart."""
    max_characters: int = Field(10_000, ge=1)
    """Most characters a side (pair_long)."""


class RatioRule(Section):
    """Sides of very different length."""

    max_ratio: float = Field(3.0, ge=1)
    """Largest ratio of the longer side to the shorter, broken in words and in characters both: either alone differs between scripts (length_ratio)."""
    min_characters: int = Field(20, ge=0)
    """Pairs whose longer side has fewer characters are not judged."""


class LongWordRule(Section):
    """A word that is none."""

    max_characters: int = Field(40, ge=1)
    """Longest word of a side (long_word)."""
    min_share: float = Field(0.2, ge=0, le=1)
    """Only where it is at least this share of the side's characters: an address or a compound in a paragraph spoils no pair."""


class SymbolsRule(Section):
    """Sides that are hardly text."""

    min_letters_share: float = Field(0.1, ge=0, le=1)
    """Smallest share of letters and combining marks among visible characters (symbols)."""


class ScriptRule(Section):
    """Sides in another script than their language's."""

    min_share: float = Field(0.5, ge=0, le=1)
    """Smallest share of letters in the script (wrong_script); half of it in scripts without spaces, where a Latin name outweighs many words. Bicleaner's .75 drops 30%
    of true Serbian and 22% of true Chinese (Hant) news sentences for their names; this drops 0.03% of all true pairs with English."""


class NumeralsRule(Section):
    """Numerals that do not match."""

    min_similarity: float = Field(0.5, ge=0, le=1)
    """Smallest share of non-zero digits that both sides hold, in any order and script (numerals)."""
    min_digits: int = Field(4, ge=1)
    """Pairs of which neither side has so many non-zero digits are not judged: small numbers are often spelled out."""


class LanguageRule(Section):
    """Sides in another language than their label says, as identified by `clean`."""

    min_score: float = Field(0.9, ge=0, le=1)
    """Least confidence of the identification."""
    min_characters: int = Field(200, ge=0)
    """Shorter sides are not judged for a third language (wrong_language)."""
    min_characters_untranslated: int = Field(80, ge=0)
    """Shorter sides are not judged for the language of the other side (untranslated)."""


class Pairs(Section):
    """Rules on pairs; a pair that breaks one is dropped whole."""

    rules: tuple[str, ...] = tuple(PAIR_RULES)
    """Rules in the order in which they are asked; see stages/dedup/pair_rules."""
    length: LengthRule = LengthRule()
    """Bounds on length."""
    ratio: RatioRule = RatioRule()
    """Sides of very different length."""
    long_word: LongWordRule = LongWordRule()
    """A word that is none."""
    symbols: SymbolsRule = SymbolsRule()
    """Sides that are hardly text."""
    script: ScriptRule = ScriptRule()
    """Sides in another script than their language's."""
    numerals: NumeralsRule = NumeralsRule()
    """Numerals that do not match."""
    language: LanguageRule = LanguageRule()
    """Sides in another language than their label says."""
    unique_sides: bool = False
    """Whether of several pairs of the same two languages with one side in common only the first stays (duplicate_side_a, duplicate_side_b)."""

    @field_validator("rules")
    @classmethod
    def _rules_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return known_names(names, PAIR_RULES, "rule")
