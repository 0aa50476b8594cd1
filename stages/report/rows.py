"""What the report holds: its figures as frozen values, and what they are made of.

Counts are as the ledgers have them. Shares that stages give in 1/10000 stay such integers; nats and seconds are floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.manifest import Manifest


@dataclass(frozen=True)
class Part:
    """What one instance of the pipeline made."""

    instance: str
    manifest: Manifest


@dataclass(frozen=True)
class Given:
    """All that the report is made of. `parts` is by slot of the report; a slot that takes many has `<slot>.<instance>`."""

    parts: Mapping[str, Part]
    corpus_card: Mapping[str, Any] | None = None
    card: Mapping[str, Any] | None = None
    training: Mapping[str, Any] | None = None
    curve: Sequence[Mapping[str, float]] = ()
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def by_stage(self, stage: str) -> list[Part]:
        """Parts that a stage made, each once, in the order of their slots."""
        found = {part.instance: part for part in self.parts.values() if part.manifest.stage == stage}
        return list(found.values())


@dataclass(frozen=True)
class Book:
    """One ledger of an instance, summed over languages: `taken = kept + Σ dropped + Σ quarantined`."""

    instance: str
    name: str
    unit: str
    taken: int
    kept: int
    dropped: Mapping[str, int]
    quarantined: Mapping[str, int]


@dataclass(frozen=True)
class CorpusRow:
    """One language (or pair of languages) from the first file to the last decision, as the card has it; None where nothing counted it. Shares in 1/10000."""

    lang: str
    name: str
    taken: int
    kept: int
    dropped: Mapping[str, int]
    quarantined: Mapping[str, int]
    bytes_in: int
    characters_in: int
    words_in: int | None
    characters_kept: int
    words_kept: int | None
    duplicate_share: int
    near_duplicate_share: int
    trained: int | None = None
    heldout: int | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Sample:
    """A document or pair that was dropped, its text cut short."""

    lang: str
    name: str
    source: str
    offset: int
    texts: Sequence[str]


@dataclass(frozen=True)
class Corpus:
    """The corpus per language and in sum; its pairs; samples of what each reason dropped, by `documents` or `pairs` and reason; licences of the records read."""

    rows: Sequence[CorpusRow]
    total: CorpusRow
    pairs: Sequence[CorpusRow]
    pairs_total: CorpusRow | None
    samples: Mapping[str, Mapping[str, Sequence[Sample]]]
    relabelled: Mapping[str, Mapping[str, int]]
    licences: Mapping[str, int]
    sources: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Heldout:
    """What was held out of training."""

    groups: Sequence[str]
    documents: int
    languages: int


@dataclass(frozen=True)
class VocabularyRow:
    """A line of the vocabulary's card; shares, fertility, characters per piece and parity with English in 1/10000."""

    lang: str
    name: str
    words: int
    pieces: int
    pieces_used: int | None
    fertility: int
    characters_per_piece: int
    unknown: int
    byte_fallback: int
    pieces_used_share: int | None
    parity: int | None


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary: `size` counts all ids, `used` the distinct pieces met in the training text; `compared` are others on the same words, by name."""

    size: int
    used: int
    rows: Sequence[VocabularyRow]
    mean: VocabularyRow
    longest: Sequence[str]
    compared: Mapping[str, Vocabulary]


@dataclass(frozen=True)
class PackingRow:
    """One split's training rows: `filled` of `places` token places are used; `tokens` of these are text, the rest special ids."""

    split: str
    documents: int
    rows: int
    tokens: int
    filled: int
    places: int


@dataclass(frozen=True)
class LossRow:
    """Held-out loss of one language in nats per masked token, beside the unigrams of the whole corpus and of the language."""

    lang: str
    name: str
    loss: float
    corpus_unigram: float | None
    language_unigram: float | None
    bits_per_byte: float | None
    masked_tokens: int
    trained_tokens: int
    planned_tokens: int | None = None


@dataclass(frozen=True)
class ObjectiveRow:
    """A training objective's held-out measure beside its baseline: means in which each language, or pair of languages, weighs the same; nats."""

    name: str
    measured: str
    baseline_name: str
    loss: float
    baseline: float
    languages: int
    better_in: int
    """Of these languages."""


@dataclass(frozen=True)
class Pretraining:
    """The pretrained model: its shape, its means over languages, its throughput."""

    instance: str
    model: str
    parameters: int
    steps: int
    length: int
    world_size: int
    precision: str
    trained_tokens: int
    summary: Mapping[str, float]
    better_than_corpus: int
    better_than_language: int
    step_seconds: float
    tokens_per_second: float | None
    mfu: float | None
    """Useful operations over the most that the devices compute, over all steps; none where that is not known."""
    rows: Sequence[LossRow]
    objectives: Sequence[ObjectiveRow]


@dataclass(frozen=True)
class FinetuningRow:
    """One training of a fine-tuning: of the encoder, or of its untrained twin."""

    instance: str
    encoder: str
    examples: int
    labels: int
    steps: int
    final_loss: float | None
    languages: Sequence[str]


@dataclass(frozen=True)
class ScoreRow:
    """A language or a group: for each system accuracy and macro-F1 as (value, low, high) in 1/10000."""

    key: str
    name: str
    is_group: bool
    examples: int
    languages: int
    fine_tuned: bool
    accuracy: Mapping[str, tuple[int, int, int]]
    macro_f1: Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Scored:
    """One evaluation: group rows first, then languages."""

    instance: str
    set: str
    split: str
    task: str
    labels: int
    trained_on: Sequence[str]
    seen_unlabelled: bool
    verdict: str
    systems: Sequence[str]
    rows: Sequence[ScoreRow]

    @property
    def head(self) -> ScoreRow:
        """The row that the verdict is about: zero-shot, else all."""
        return next((row for row in self.rows if row.key == "zero_shot"), next(row for row in self.rows if row.key == "all"))


@dataclass(frozen=True)
class Export:
    """An exported encoder and on how much it was compared with what it was exported from."""

    instance: str
    lines: int
    languages: int
    files: int
    bytes: int


@dataclass(frozen=True)
class StageRow:
    """When and at what cost an instance ran last; `peak_bytes` is 0 where it was too short to be measured."""

    instance: str
    stage: str
    run: str
    seconds: float
    peak_bytes: int
    host: str
    python: str
    settings: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Figures:
    """All figures of the page; a part is None or empty where the pipeline has none."""

    books: Sequence[Book]
    corpus: Corpus | None
    reasons: Mapping[str, Mapping[str, int]]
    heldout: Heldout | None
    contaminants: int | None
    vocabulary: Vocabulary | None
    packing: Sequence[PackingRow]
    pretraining: Pretraining | None
    exports: Sequence[Export]
    finetuning: Sequence[FinetuningRow]
    scores: Sequence[Scored]
    stages: Sequence[StageRow]
    libraries: Mapping[str, Sequence[str]]
    warnings: Sequence[tuple[str, str]]
