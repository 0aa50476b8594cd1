"""Many texts as ids, each distinct word encoded once: the ids of `Tokenizer.encode`, several times as fast.

    "the cat the" -> the · cat · the -> numbers 0 1 0 -> (new words alone go through sentencepiece) -> their ids, one behind the other

No piece of a BPE vocabulary that was trained on words reaches over a space, so merges in one word never hang on another, and a text's ids are its words' ids in order.
Where that does not hold (`Tokenizer.parts_at_spaces`: a unigram model, pieces with a space inside, a normaliser of its own) each text is encoded as a whole. Scripts
without spaces gain nothing: a sentence is one word.

Legend: N texts, W words, K tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit

from pipeline.text.tokenizer import SPACE, Tokenizer
from pipeline.text.word_numbers import WordNumbers, grown

I64 = np.ndarray[Any, np.dtype[np.int64]]

MAX_WORDS, MAX_BYTES = 1 << 21, 1 << 26
"""Distinct words, and UTF-8 bytes of theirs, that are remembered (about 200 MB in all); then all are forgotten."""
WORDS_A_LINE = 64


class TextEncoder:
    """Encodes batches of texts with one vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._begins_word = np.array([piece.startswith(SPACE) for piece in tokenizer.pieces()])
        self._numbers = WordNumbers()
        self._ids = np.zeros(1 << 12, tokenizer.dtype)
        self._ends = np.zeros(1 << 12, np.int64)  # of the ids of each word; those of word 0 begin at 0

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray[Any, np.dtype[Any]], I64]:
        """All ids [K] one behind the other, and how many each text has [N]."""
        if not self.tokenizer.parts_at_spaces:
            rows = self.tokenizer.encode(texts)
            return np.concatenate([np.zeros(0, self.tokenizer.dtype), *rows]), np.fromiter(map(len, rows), np.int64, len(rows))
        column = pa.array(texts, pa.large_string())
        offsets_N1 = np.frombuffer(column.buffers()[1], np.int64) if len(texts) else np.zeros(1, np.int64)
        data = np.frombuffer(column.buffers()[2], np.uint8) if offsets_N1[-1] else np.zeros(0, np.uint8)
        if self._numbers.known > MAX_WORDS or self._numbers.num_bytes > MAX_BYTES:
            self._numbers = WordNumbers()
        known = self._numbers.known
        number_W, before_N1 = self._numbers(data, offsets_N1)
        if self._numbers.known > known:
            self._learn(known)
        return _joined(self._ids, self._ends, number_W, before_N1)

    def _learn(self, known: int) -> None:
        """Encode the words from number `known` on, as lines of many words, since a call costs more than a word. A piece that begins with a space begins a word."""
        held, ends_D = self._numbers.words(known)
        if self.tokenizer.compiled is not None:
            self._keep(known, *self.tokenizer.compiled.encode(held, np.concatenate([[0], ends_D]), SPACE))
            return
        joined = np.insert(held, ends_D[:-1], 0x20).tobytes()
        cuts = (ends_D + np.arange(1, len(ends_D) + 1))[WORDS_A_LINE - 1 :: WORDS_A_LINE].tolist()
        lines = [joined[a : b - 1].decode() for a, b in pairwise([0, *cuts, len(joined) + 1])]
        ids = np.concatenate(self.tokenizer.encode(lines))
        starts = np.flatnonzero(self._begins_word[ids])
        lengths = np.diff(starts, append=len(ids))
        if len(starts) != len(ends_D):  # a word holds U+2581 itself
            ids, lengths = self.tokenizer.encode_words([SPACE + word for word in joined.decode().split(" ")])
        self._keep(known, ids, lengths)

    def _keep(self, known: int, ids: Any, lengths_D: I64) -> None:
        """Put the ids of the words from number `known` on behind those of the words before."""
        first = int(self._ends[known - 1]) if known else 0
        self._ids, self._ends = grown(self._ids, first + len(ids)), grown(self._ends, known + len(lengths_D))
        self._ids[first : first + len(ids)] = ids
        self._ends[known : known + len(lengths_D)] = first + np.cumsum(lengths_D)


@njit(cache=True)
def _joined(ids: Any, ends: Any, number_W: Any, before_N1: Any) -> Any:
    """The ids of words by number, one behind the other [K], and how many each text has [N]."""
    total = np.int64(0)
    for number in number_W:
        total += ends[number] - (ends[number - 1] if number > 0 else 0)
    joined, lengths_N = np.empty(total, ids.dtype), np.empty(len(before_N1) - 1, np.int64)
    at: Any = np.int64(0)
    for text in range(len(lengths_N)):
        first = at
        for word in range(before_N1[text], before_N1[text + 1]):
            number = number_W[word]
            begin = ends[number - 1] if number > 0 else np.int64(0)
            for n in range(ends[number] - begin):
                joined[at + n] = ids[begin + n]
            at += ends[number] - begin
        lengths_N[text] = at - first
    return joined, lengths_N
