"""Many texts as ids, each distinct word encoded once: the ids of `Tokenizer.encode`, several times as fast.

    "the cat the" -> the · cat · the -> numbers 0 1 0 -> (new words alone go through sentencepiece) -> their ids, one behind the other

No piece of a BPE vocabulary that was trained on words reaches over a space, so merges in one word never hang on another, and a text's ids are its words' ids in order.
Where that does not hold (`Tokenizer.parts_at_spaces`: a unigram model, pieces with a space inside, a normaliser of its own) each text is encoded as a whole. Scripts
without spaces gain nothing: a sentence is one word.

Legend: N texts, W words, K tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.text.tokenizer import SPACE, Tokenizer

I64 = np.ndarray[Any, np.dtype[np.int64]]

MAX_WORDS, MAX_IDS = 1 << 19, 1 << 22
"""Distinct words, and ids of theirs, that are remembered (about 150 MB); then all are forgotten."""


class _Numbers(dict[str, int]):
    """word -> its number, given when it is first asked for; `new` are the words that have no ids yet."""

    def __init__(self) -> None:
        super().__init__()
        self.new: list[str] = []

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        self.new.append(word)
        return number


class TextEncoder:
    """Encodes batches of texts with one vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._numbers = _Numbers()
        self._ids = np.zeros(1 << 12, tokenizer.dtype)
        self._ends = np.zeros(1 << 12, np.int64)  # of the ids of each word; those of word 0 begin at 0

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray[Any, np.dtype[Any]], I64]:
        """All ids [K] one behind the other, and how many each text has [N]."""
        if not self.tokenizer.parts_at_spaces:
            rows = self.tokenizer.encode(texts)
            return np.concatenate([np.zeros(0, self.tokenizer.dtype), *rows]), np.fromiter(map(len, rows), np.int64, len(rows))
        words: list[str] = []
        before_N1 = np.zeros(len(texts) + 1, np.int64)
        for number, text in enumerate(texts, 1):
            if text:
                words += text.split(" ")
            before_N1[number] = len(words)
        begin_W, end_W = self._numbered(words)
        tokens_before_W1 = np.concatenate([np.zeros(1, np.int64), np.cumsum(end_W - begin_W)])
        index_K = np.arange(tokens_before_W1[-1]) + np.repeat(begin_W - tokens_before_W1[:-1], end_W - begin_W)
        return self._ids[index_K], np.diff(tokens_before_W1[before_N1])

    def _numbered(self, words: list[str]) -> tuple[I64, I64]:
        """Where the ids of each word [W] begin and end."""
        if len(self._numbers) > MAX_WORDS or (len(self._numbers) and self._ends[len(self._numbers) - 1] > MAX_IDS):
            self._numbers = _Numbers()
        known = len(self._numbers)
        number_W = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        new, self._numbers.new = self._numbers.new, []
        if new:
            ids, lengths = self.tokenizer.encode_words([SPACE + word for word in new])
            first = int(self._ends[known - 1]) if known else 0
            self._ids = _grown(self._ids, first + len(ids))
            self._ends = _grown(self._ends, known + len(new))
            self._ids[first : first + len(ids)] = ids
            self._ends[known : known + len(new)] = first + np.cumsum(lengths)
        end_W = self._ends[number_W]
        return np.where(number_W > 0, self._ends[number_W - 1], 0), end_W


def _grown(array: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """The array, or a longer copy that holds `size`."""
    if size <= len(array):
        return array
    longer = np.zeros(max(size, 2 * len(array)), array.dtype)
    longer[: len(array)] = array
    return longer
