"""What `masking` takes from the vocabulary and the training text: where words begin, and how often each token comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from pipeline.storage import Storage
from pipeline.training.engine import Gang, training_device
from pipeline.training.objectives.choices import Choice, Spans, WholeWords, by_frequency
from pipeline.training.packed_rows import PackedRows
from stages.pretrain.heldout import token_counts

if TYPE_CHECKING:
    from stages.pretrain import Config

I64 = np.ndarray[Any, np.dtype[np.int64]]

DEFAULT_ALPHA = 0.5
"""Of `frequency_alpha`, as in XLM."""


def choice_of(config: Config, vocabulary: bytes, vocab_size: int, counts_V: Callable[[], I64]) -> Choice | None:
    """What the objectives hide; none: each token alike.

    vocabulary: bytes of the sentencepiece model. counts_V: gives how often each id stands in the training text; called where masking is `frequency`.
    """
    if config.masking == "whole_word":
        return WholeWords(word_begins(vocabulary, vocab_size))
    if config.masking == "span":
        return Spans()
    if config.masking == "frequency":
        return by_frequency(counts_V(), DEFAULT_ALPHA if config.frequency_alpha is None else config.frequency_alpha)
    return None


def word_begins(vocabulary: bytes, vocab_size: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """[V] whether a piece begins with `▁`, and so a word."""
    from pipeline.text.tokenizer import SPACE, Tokenizer

    begins_V = np.zeros(vocab_size, np.bool_)
    pieces = Tokenizer(vocabulary).pieces()
    begins_V[: len(pieces)] = [piece.startswith(SPACE) for piece in pieces]
    return begins_V


def frequencies(storage: Storage, path: str, train: Mapping[str, PackedRows], vocab_size: int, gang: Gang) -> I64:
    """[V] how often each id stands in the rows of all languages: counted by rank 0, kept at `path` for a resume, told to the others; collective."""
    counts_V = np.zeros(vocab_size, np.int64)
    if gang.rank == 0:
        kept = storage.read_json(path)
        counts_V = np.array(kept, np.int64) if kept else sum((token_counts(rows, vocab_size) for rows in train.values()), counts_V)
        if not kept:
            storage.write_json(path, counts_V.tolist())
    if gang.world_size == 1:
        return counts_V
    told = torch.from_numpy(counts_V).to(training_device(gang))
    dist.broadcast(told, src=0)
    return told.cpu().numpy()
