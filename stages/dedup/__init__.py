"""dedup: decides what is kept of the documents and pairs, and why not; rewrites no text.

In order: rules on measured columns, the language check, held-out text and its translations, decontamination against held-out and dev/test examples; then, each among
what is left, duplicates by address, exact duplicates, near-duplicates, and paragraphs and lines that stand elsewhere. The first that applies gives the reason. Pairs
have rules of their own and go as a whole: exact duplicates, and with `pairs.unique_sides` those of one side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.artifacts import BITEXT, DECISIONS, DOCUMENTS, EXAMPLES, HELDOUT, PAIR_DECISIONS, REJECTS
from pipeline.artifacts.documents import MEASURES
from pipeline.config import Section, known_names
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary, Timing
from pipeline.text.languages import lookup
from stages.dedup.pair_rules.settings import Pairs
from stages.dedup.rules import RULES

VERSION = 6
LIBRARIES = ("pyarrow", "pycld2", "py3langid")
GRADE = Grade.EXACT
INPUTS = {
    "documents": Slot(DOCUMENTS, "clean"),
    "bitext": Slot(BITEXT, "clean", optional=True),
    "heldout": Slot(HELDOUT, "heldout", optional=True),
    "examples": Slot(EXAMPLES, "examples", optional=True),
}
OUTPUT = {"decisions": DECISIONS, "pair_decisions": PAIR_DECISIONS, "rejects": REJECTS}


class Bounded(Section):
    """A rule's bounds, and those of single languages."""

    languages: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Bounds of single languages in place of the others here: {th: {min_words: 2}}."""

    @field_validator("languages")
    @classmethod
    def _bounds_are_known(cls, languages: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        known = [name for name in cls.model_fields if name != "languages"]
        made: dict[str, dict[str, Any]] = {}
        for lang, bounds in languages.items():
            known_names(tuple(bounds), dict.fromkeys(known), f"bound of {lang}")
            try:
                read = cls.model_validate(bounds)
            except ValidationError as error:
                wrong = error.errors()[0]
                place = ".".join(str(part) for part in wrong["loc"])
                raise ValueError(f"{lang}.{place}: {wrong['input']!r}: {wrong['msg']}") from None
            made[lookup(lang).code] = {name: getattr(read, name) for name in bounds}
        return made


class LengthRule(Bounded):
    """Bounds on length."""

    min_characters: int = Field(20, ge=0)
    """Documents with fewer characters are dropped (too_short)."""
    max_characters: int = Field(1_000_000, ge=1)
    """Documents with more characters are dropped (too_long)."""
    min_words: int = Field(3, ge=0)
    """Documents with fewer words are dropped (too_few_words); estimated in scripts without spaces."""


class RepetitionRule(Bounded):
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


class GopherRule(Bounded):
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


class C4Rule(Bounded):
    """C4's rules on whole documents (Raffel et al. 2020); those on lines are text rules of `clean`."""

    min_sentences: int = Field(5, ge=0)
    """Fewest sentences (c4_few_sentences)."""
    max_curly_brackets: int = Field(0, ge=0)
    """Most opening curly brackets (c4_curly_brackets)."""


class FineWebRule(Bounded):
    """FineWeb's rules on lines (Penedo et al. 2024); for languages other than English FineWeb2 switches the short-line rule off: set its bound to 1."""

    min_punctuated_line_share: float = Field(0.12, ge=0, le=1)
    """Smallest share of lines that end as a sentence does (fineweb_unpunctuated)."""
    max_short_line_share: float = Field(0.67, ge=0, le=1)
    """Largest share of lines of at most 30 characters (fineweb_short_lines)."""
    max_duplicate_line_characters_share: float = Field(0.01, ge=0, le=1)
    """Largest share of characters in lines that stood before (fineweb_duplicate_lines; FineWeb2: .1)."""
    max_newline_word_ratio: float = Field(0.3, ge=0)
    """Most line feeds per word (fineweb_list; FineWeb2's median: .071)."""


class BlocklistRule(Bounded):
    """What the block lists of `clean` (`blocked_urls`, `blocked_words`) lead to; a document whose address is on one is dropped (blocked_url)."""

    max_words: int = Field(0, ge=0)
    """Most listed words in a document (blocked_words)."""


class LanguageRule(Bounded):
    """When identification overrules the label."""

    min_score: float = Field(0.9, ge=0, le=1)
    """A document identified as another language with at least this confidence is dropped (wrong_language)."""
    min_own_score: float = Field(0.0, ge=0, le=1)
    """A document identified as what its label says with less confidence is dropped (uncertain_language)."""
    min_characters: int = Field(200, ge=0)
    """Shorter documents are not judged."""


class ScriptRule(Bounded):
    """How much of a document must be in the script of its language."""

    min_script_share: float = Field(0.5, ge=0, le=1)
    """Smallest share of letters that are of the script (wrong_script); bare codes of languages with several scripts are not judged."""
    min_characters: int = Field(50, ge=0)
    """Shorter documents are not judged."""


class ForeignLinesRule(Bounded):
    """How much of a document may be in another language."""

    max_foreign_line_share: float = Field(0.5, ge=0, le=1)
    """Largest share of characters in lines identified as another language (foreign_lines), where `clean` identifies lines."""


class Decontamination(Section):
    """When a training document overlaps evaluation text."""

    ngram: int = Field(13, ge=3, le=64)
    """Length of the n-grams compared, in words (in scripts without spaces so many times 2 characters of Han or Kana, 4 of Thai and the like)."""
    max_texts: int = Field(10, ge=1)
    """An n-gram that stands in more different evaluation texts (alignment groups, where they have one) is a formula and condemns nothing."""


class Lines(Section):
    """Duplicate lines over the whole corpus: the first stays."""

    min_characters: int = Field(30, ge=1)
    """Shorter lines may repeat."""


class Paragraphs(Section):
    """Duplicate paragraphs (an empty line parts them) over the whole corpus: the first stays."""

    min_characters: int = Field(100, ge=1)
    """Shorter paragraphs may repeat."""


class NearDuplicates(Section):
    """Documents that are nearly the same (MinHash-LSH with 14 bands of 8 rows over 5-grams of words, verified)."""

    min_similarity: float = Field(0.7, gt=0, le=1)
    """Documents whose shingles have at least this Jaccard similarity are one cluster (near_duplicate)."""
    across_languages: bool = True
    """Whether documents labelled as different languages can be one cluster; translations of one alignment group never are."""


class Derived(Section):
    """How a bound is derived from what the documents of a language measure."""

    column: str = ""
    """Measured column; none is the bound's name without its min_ or max_."""
    how: Literal["quantile", "median_less_deviation"] = "quantile"
    """The bound is a quantile, or the median less a standard deviation."""
    quantile: float = Field(0.95, ge=0, le=1)
    """Which quantile: of a maximum, so large a share of the documents lies within it."""
    floor: float = 0.0
    """Smallest bound."""
    ceiling: float = 1.0
    """Largest bound."""

    @model_validator(mode="after")
    def _floor_is_below(self) -> Derived:
        if self.floor > self.ceiling:
            raise ValueError(f"floor {self.floor} is above ceiling {self.ceiling}")
        if self.column and self.column not in (*MEASURES, "identified_score"):
            raise ValueError(f"column {self.column!r} is not measured; measured are {', '.join((*MEASURES, 'identified_score'))}")
        return self


_DERIVED = {
    "language.min_own_score": Derived(column="identified_score", how="median_less_deviation", floor=0.3, ceiling=0.9),
    "gopher.min_mean_word_length": Derived(quantile=0.02, floor=1, ceiling=3),
    "gopher.max_mean_word_length": Derived(quantile=0.98, floor=8, ceiling=40),
    "gopher.min_words_with_letters_share": Derived(quantile=0.05, floor=0.5, ceiling=0.8),
    "repetition.min_letters_share": Derived(quantile=0.02, floor=0.3, ceiling=0.6),
    "repetition.max_duplicate_line_share": Derived(quantile=0.95, floor=0.1, ceiling=0.5),
    "fineweb.max_newline_word_ratio": Derived(quantile=0.95, floor=0.05, ceiling=0.5),
    "fineweb.min_punctuated_line_share": Derived(quantile=0.05, floor=0, ceiling=0.12),
}


class Derive(Section):
    """Bounds derived from the corpus per language, after FineWeb2; the evidence is shown by `show FILE dedup thresholds`."""

    min_documents: int = Field(1_000, ge=1)
    """A language with fewer documents keeps the bound that the rule has."""
    bounds: dict[str, Derived] = Field(_DERIVED)
    """Rule and bound -> how it is derived; of rules that `rules` does not name none is."""


class Config(Section):
    """Settings of dedup."""

    rules: tuple[str, ...] = ("length", "repetition", "blocklist", "script", "language", "foreign_lines")
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
    blocklist: BlocklistRule = BlocklistRule()
    """What the block lists of `clean` lead to."""
    language: LanguageRule = LanguageRule()
    """The language check."""
    script: ScriptRule = ScriptRule()
    """The script check."""
    foreign_lines: ForeignLinesRule = ForeignLinesRule()
    """Lines of another language."""
    decontamination: Decontamination = Decontamination()
    """Overlap with evaluation text."""
    derive: Derive | None = None
    """Bounds derived from the corpus per language; null takes them as they stand here, {} derives those that `plan` lists."""
    lines: Lines | None = Lines()
    """Duplicate lines; null keeps them."""
    paragraphs: Paragraphs | None = None
    """Duplicate paragraphs; null keeps them."""
    near: NearDuplicates | None = NearDuplicates()
    """Near-duplicates; null keeps them."""
    urls: bool = True
    """Whether of several documents with one address only the first stays (duplicate_url)."""
    priority: tuple[str, ...] = ()
    """Patterns of file names as they stand in the `source` column (`wiki-*`), best first: of duplicates the one from the best source stays, and among those the smallest id."""
    pairs: Pairs = Pairs()
    """Rules on pairs, and which are duplicates; see stages/dedup/pair_rules."""
    keep_rejects: bool = False
    """Whether the documents that are dropped are written out with their reason and text (`show FILE dedup rejects`)."""
    partitions: int | None = Field(None, ge=1, le=4096)
    """Partitions of the duplicate search; null takes one for 65,536 documents or 128 MiB, rounded up to a power of two."""

    @model_validator(mode="after")
    def _derived_bounds_are_known(self) -> Config:
        for name, derived in self.derive.bounds.items() if self.derive is not None else ():
            rule, _, bound = name.partition(".")
            section = getattr(self, rule, None) if rule in RULES else None
            if (
                not isinstance(section, Bounded)
                or not isinstance(getattr(section, bound, None), (int, float))
                or not bound.startswith(("min_", "max_"))
            ):
                raise ValueError(f"derive.bounds.{name}: not a bound of a rule; write RULE.BOUND, as gopher.max_mean_word_length")
            if not derived.column and bound[4:] not in MEASURES:
                raise ValueError(f"derive.bounds.{name}: {bound[4:]} is not measured; name a `column`: {', '.join(MEASURES)}")
        return self


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Decide on all documents and pairs."""
    from stages.dedup import work

    return work.run(config, inputs, output, context)


def profile(config: Config, inputs: Mapping[str, Input], sample_bytes: int) -> list[Timing]:
    """What each decision rule takes on a sample of the documents."""
    from stages.dedup import timing

    return timing.profile(config, inputs, sample_bytes)
