"""vocabulary: one shared BPE vocabulary (a sentencepiece model) from exact word counts over the whole kept corpus.

    documents, bitext ⋈ decisions -> count (map): words per language into P partitions -> merge (reduce, one a partition)
        -> train: weights n_lang^(α−1) in fixed point, merges of the weighted words -> measure (a unit a partition): fertility, unknown and byte-fallback rate

    compare: the same figures of other vocabularies on the same words
    start: -> trace (a unit a partition): pieces that the words need -> adapt: the vocabulary cut, and grown by pieces learned from the words -> rows.json

n_lang is the language's characters after normalisation (Conneau & Lample 2019 draw sentences with p ∝ n^α; weighting counts does it without a draw).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.artifacts import BITEXT, DECISIONS, DOCUMENTS, PAIR_DECISIONS, VOCABULARY
from pipeline.config import NonEmpty, Section, outside
from pipeline.sources import Source
from pipeline.stage import Context, Grade, Input, ListContext, Output, Slot, Summary

VERSION = 7
LIBRARIES = ("numba", "pyarrow", "sentencepiece")
GRADE = Grade.EXACT
GLOBALS = ("languages", "seed")
INPUTS = {
    "documents": Slot(DOCUMENTS, "clean"),
    "decisions": Slot(DECISIONS, "dedup"),
    "bitext": Slot(BITEXT, "clean", optional=True),
    "pair_decisions": Slot(PAIR_DECISIONS, "dedup", optional=True),
}
OUTPUT = {"vocabulary": VOCABULARY}


class Start(Section):
    """A vocabulary that exists already."""

    path: NonEmpty = outside(...)
    """A sentencepiece `.model` or a Hugging Face `tokenizer.json`, local or any fsspec URL; its content is in the key."""
    trim: bool = False
    """Keep only the pieces that this corpus needs, so that it is encoded as before."""
    add: int = Field(0, ge=0)
    """Pieces to add from this corpus, at most."""


class Config(Section):
    """Settings of vocabulary."""

    size: int = Field(64_000, ge=300, le=2_000_000)
    """Ids in all, special ones and <mask> included."""
    start: Start | None = None
    """Take this vocabulary, cut and grown as it says, instead of training one; `size`, `model`, `byte_fallback` and `split_digits` are then its own."""
    model: Literal["bpe", "unigram"] = "bpe"
    """Kind of vocabulary: merges of all counted words, or a unigram model of a sample of them."""
    sample_words: int = Field(5_000_000, ge=1_000)
    """Words drawn by their weighted counts for a unigram model, whose seed ignores counts."""
    sampling: Literal["alpha", "unimax", "weights"] = "alpha"
    """How languages are weighted: by alpha, alike up to max_epochs (UniMax), or by language_weights."""
    alpha: float = Field(0.3, ge=0, le=1)
    """Exponent of the sampling over languages: 1 as in the corpus, 0 all alike (XLM-R 0.3)."""
    max_epochs: float = Field(5.0, gt=0)
    """UniMax: most times that a language's text counts."""
    language_weights: Mapping[str, float] = Field(default_factory=dict)
    """Shares of the languages (or groups) where sampling is `weights`; each with text must have one above 0."""
    groups: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Languages that are weighted as one, by a name of the group."""
    language_tokens: bool = False
    """An id for each language, before <mask>, that stands for the language and comes from no text (XLM, denoising)."""
    byte_fallback: bool = True
    """Spend 256 ids so that no text is unknown."""
    coverage: float = Field(0.9995, ge=0.98, le=1)
    """Share of characters, over the weighted mix, that get an id of their own."""
    language_coverage: float = Field(0.9999, ge=0, le=1)
    """Share of characters that gets ids within each language on its own, so that no rare script is left to bytes (at 0.999 some have 0.4% of their pieces in bytes)."""
    split_digits: bool = True
    """Never join two digits in one piece."""
    bitext: bool = True
    """Count both sides of the bitext; false where the same text also comes as documents."""
    compare: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,40}$")], NonEmpty] = outside(default_factory=dict)
    """Vocabularies to set beside this one in the card, by a name: as `start.path`; their content is in the key."""
    max_words: int = Field(50_000_000, ge=1_000)
    """Most distinct words, by language, that are trained on; of more, the rarest by weighted count are left out, and their share of the mass is reported."""
    partitions: int | None = Field(None, ge=1, le=4096)
    """Partitions of the word counts; none takes 8, or more for a corpus of more than 256 MiB."""
    memory: int | None = outside(None, gt=0)
    """Bytes of memory that the training task reserves; none estimates it from the number of words."""

    @model_validator(mode="after")
    def _weights_and_groups_fit(self) -> Config:
        if (self.sampling == "weights") != bool(self.language_weights):
            raise ValueError("language_weights and sampling: weights go together; give both or neither")
        if any(not weight > 0 for weight in self.language_weights.values()):
            raise ValueError("every weight of language_weights must be above 0")
        if "before" in self.compare:
            raise ValueError("compare: `before` is the name of the vocabulary at start.path; call it otherwise")
        grouped = [lang for langs in self.groups.values() for lang in langs]
        if len(grouped) != len(set(grouped)):
            raise ValueError(f"groups: {max(grouped, key=grouped.count)} stands in more than one; a language belongs to one group at most")
        return self


def list_inputs(config: Config, context: ListContext) -> list[Source]:
    """The vocabularies to start from and to compare with, whose content is part of the key."""
    wanted = {("compare", name): path for name, path in config.compare.items()}
    if config.start is not None:
        wanted["start", "path"] = config.start.path
    if not wanted:
        return []
    from stages.vocabulary.fetching import list_vocabulary

    return [list_vocabulary(path, place, context) for place, path in sorted(wanted.items())]


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Count, weight, train, and write the card."""
    from stages.vocabulary import work

    return work.run(config, inputs, output, context)
