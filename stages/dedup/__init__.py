"""dedup: decides what is kept of the documents and pairs, and why not; rewrites no text.

In order: rules on measured columns, the language check, held-out text and its translations, decontamination against held-out and dev/test examples; then, each among
what is left, duplicates by address, exact duplicates, near-duplicates, and lines that stand elsewhere. The first that applies gives the reason.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from pipeline.artifacts import BITEXT, DECISIONS, DOCUMENTS, EXAMPLES, HELDOUT, PAIR_DECISIONS
from pipeline.config import Section, known_names
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary
from stages.dedup.rules import RULES

VERSION = 3
LIBRARIES = ("pyarrow", "pycld2", "py3langid")
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
    """Bounds on repetition and on what is not text (Gopher, table A1)."""

    max_duplicate_line_share: float = Field(0.3, ge=0, le=1)
    """Largest share of lines that stood before in the document."""
    max_duplicate_line_characters_share: float = Field(0.2, ge=0, le=1)
    """Largest share of characters in such lines."""
    max_duplicate_paragraph_share: float = Field(0.3, ge=0, le=1)
    """Largest share of paragraphs that stood before."""
    max_duplicate_paragraph_characters_share: float = Field(0.2, ge=0, le=1)
    """Largest share of characters in such paragraphs."""
    max_top_ngram_shares: dict[int, float] = Field({2: 0.2, 3: 0.18, 4: 0.16})
    """Largest share of characters in the most frequent n-gram, by n (2 to 4)."""
    max_duplicate_ngram_shares: dict[int, float] = Field({5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10})
    """Largest share of characters in n-grams that stood before, by n (5 to 10)."""
    min_words_for_ngrams: int = Field(50, ge=0)
    """Documents with fewer words are not judged by n-grams: a short text has a frequent one by chance."""
    min_letters_share: float = Field(0.5, ge=0, le=1)
    """Smallest share of letters and combining marks among visible characters."""
    max_symbol_word_ratio: float = Field(0.1, ge=0)
    """Most # or … per word."""

    @field_validator("max_top_ngram_shares")
    @classmethod
    def _top_is_measured(cls, shares: dict[int, float]) -> dict[int, float]:
        return _lengths(shares, 2, 4)

    @field_validator("max_duplicate_ngram_shares")
    @classmethod
    def _duplicates_are_measured(cls, shares: dict[int, float]) -> dict[int, float]:
        return _lengths(shares, 5, 10)


def _lengths(shares: dict[int, float], least: int, most: int) -> dict[int, float]:
    for n, share in shares.items():
        if not least <= n <= most or not 0 <= share <= 1:
            raise ValueError(f"{n}: {share}; allowed are lengths from {least} to {most} with shares from 0 to 1")
    return dict(sorted(shares.items()))


class GopherRule(Section):
    """Gopher's quality rules (Rae et al. 2021, appendix A.1.1)."""

    min_words: int = Field(50, ge=0)
    """Fewest words with more than symbols (gopher_short)."""
    max_words: int = Field(100_000, ge=1)
    """Most words (gopher_long)."""
    min_mean_word_length: float = Field(3, ge=0)
    """Shortest mean word; in scripts without spaces not judged (gopher_short_words)."""
    max_mean_word_length: float = Field(10, ge=0)
    """Longest mean word; in scripts without spaces not judged (gopher_long_words)."""
    max_symbol_word_ratio: float = Field(0.1, ge=0)
    """Most # or … per word (gopher_symbols)."""
    max_bullet_line_share: float = Field(0.9, ge=0, le=1)
    """Largest share of lines that begin with a bullet (gopher_bullets)."""
    max_ellipsis_line_share: float = Field(0.3, ge=0, le=1)
    """Largest share of lines that end in an ellipsis (gopher_ellipses)."""
    min_words_with_letters_share: float = Field(0.8, ge=0, le=1)
    """Smallest share of words with a letter (gopher_few_letters)."""
    min_stop_words: int = Field(2, ge=0)
    """Fewest distinct stop words, in languages for which `clean` has a list (gopher_stop_words)."""


class C4Rule(Section):
    """C4's rules on whole documents (Raffel et al. 2020); those on lines are text rules of `clean`."""

    min_sentences: int = Field(5, ge=0)
    """Fewest sentences (c4_few_sentences)."""
    max_curly_brackets: int = Field(0, ge=0)
    """Most opening curly brackets (c4_curly_brackets)."""


class FineWebRule(Section):
    """FineWeb's rules on lines (Penedo et al. 2024); for languages other than English FineWeb2 switches the short-line rule off: set its bound to 1."""

    min_punctuated_line_share: float = Field(0.12, ge=0, le=1)
    """Smallest share of lines that end as a sentence does (fineweb_unpunctuated)."""
    max_short_line_share: float = Field(0.67, ge=0, le=1)
    """Largest share of lines of at most 30 characters (fineweb_short_lines)."""
    max_duplicate_line_characters_share: float = Field(0.01, ge=0, le=1)
    """Largest share of characters in lines that stood before (fineweb_duplicate_lines; FineWeb2: .1)."""
    max_newline_word_ratio: float = Field(0.3, ge=0)
    """Most line feeds per word (fineweb_list; FineWeb2's median: .071)."""


class LanguageRule(Section):
    """When identification overrules the label."""

    min_score: float = Field(0.9, ge=0, le=1)
    """A document identified as another language with at least this confidence is dropped (wrong_language)."""
    min_characters: int = Field(200, ge=0)
    """Shorter documents are not judged."""


class ScriptRule(Section):
    """How much of a document must be in the script of its language."""

    min_script_share: float = Field(0.5, ge=0, le=1)
    """Smallest share of letters that are of the script (wrong_script); bare codes of languages with several scripts are not judged."""
    min_characters: int = Field(50, ge=0)
    """Shorter documents are not judged."""


class ForeignLinesRule(Section):
    """How much of a document may be in another language."""

    max_foreign_line_share: float = Field(0.5, ge=0, le=1)
    """Largest share of characters in lines identified as another language (foreign_lines), where `clean` identifies lines."""


class Decontamination(Section):
    """When a training document overlaps evaluation text."""

    ngram: int = Field(13, ge=3, le=64)
    """Length of the n-grams compared, in words (in scripts without spaces so many times 2 characters of Han or Kana, 4 of Thai and the like)."""


class Lines(Section):
    """Duplicate lines over the whole corpus: the first stays."""

    min_characters: int = Field(30, ge=1)
    """Shorter lines may repeat."""


class NearDuplicates(Section):
    """Documents that are nearly the same (MinHash-LSH with 14 bands of 8 rows over 5-grams of words, verified)."""

    min_similarity: float = Field(0.7, gt=0, le=1)
    """Documents whose shingles have at least this Jaccard similarity are one cluster (near_duplicate)."""


class PairRules(Section):
    """Bounds on pairs; a pair that breaks one is dropped whole."""

    max_length_ratio: float = Field(5.0, ge=1)
    """Largest ratio of characters of the longer to the shorter side, for pairs with a side of at least 40 (OpusFilter: 3, for spaced scripts)."""
    max_characters: int = Field(10_000, ge=1)
    """Largest number of characters a side."""


class Config(Section):
    """Settings of dedup."""

    rules: tuple[str, ...] = ("length", "repetition", "script", "language", "foreign_lines")
    """Decision rules in the order in which they are asked; see stages/dedup/rules."""

    @field_validator("rules")
    @classmethod
    def _rules_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return known_names(names, RULES, "rule")

    length: LengthRule = LengthRule()
    """Bounds on length."""
    repetition: RepetitionRule = RepetitionRule()
    """Bounds on repetition."""
    gopher: GopherRule = GopherRule()
    """Gopher's quality rules; judged where `rules` names them."""
    c4: C4Rule = C4Rule()
    """C4's rules; judged where `rules` names them."""
    fineweb: FineWebRule = FineWebRule()
    """FineWeb's rules; judged where `rules` names them."""
    language: LanguageRule = LanguageRule()
    """The language check."""
    script: ScriptRule = ScriptRule()
    """The script check."""
    foreign_lines: ForeignLinesRule = ForeignLinesRule()
    """Lines of another language."""
    decontamination: Decontamination = Decontamination()
    """Overlap with evaluation text."""
    lines: Lines | None = Lines()
    """Duplicate lines; null keeps them."""
    near: NearDuplicates | None = NearDuplicates()
    """Near-duplicates; null keeps them."""
    urls: bool = True
    """Whether of several documents with one address only the first stays (duplicate_url)."""
    priority: tuple[str, ...] = ()
    """Patterns of file names as they stand in the `source` column (`wiki-*`), best first: of duplicates the one from the best source stays, and among those the smallest id."""
    pairs: PairRules = PairRules()
    """Rules on pairs."""
    partitions: int = Field(8, ge=1, le=4096)
    """Partitions of the duplicate search; more for a larger corpus."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Decide on all documents and pairs."""
    from stages.dedup import work

    return work.run(config, inputs, output, context)
