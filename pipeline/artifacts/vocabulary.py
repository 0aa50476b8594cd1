"""Vocabulary: `vocabulary.model` (sentencepiece), `card.json` (fertility, unknown and byte-fallback rate per language), `counts.json`.

Ids: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, `<mask>` = size − 1 and outside the `.model`; size counts everything. The file is never called
`sentencepiece.bpe.model`, which Hugging Face's XLM-R class would read as unigram.
"""

from __future__ import annotations

from pipeline.artifacts.artifact import Artifact

MODEL_FILE = "vocabulary.model"
ROWS_FILE = "rows.json"
"""Only where the vocabulary began as another: which ids of that one each id is made of."""

VOCABULARY = Artifact("vocabulary", "the shared subword vocabulary")
