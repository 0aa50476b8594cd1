"""Which tokens masked language modelling hides, other than each alike: whole words, spans, or rare tokens rather than frequent ones.

    WholeWords    a word is hidden with all of its pieces (BERT's whole-word masking; Cui et al. 2021)
    Spans         runs of 1 to 10 pieces, lengths geometric with p = .2, mean 3.8 (SpanBERT, Joshi et al. 2020)
    ByFrequency   tokens without replacement, each with weight frequency^−alpha (Lample and Conneau 2019, section 3.1: alpha .5)

    row -> places that may come first, each with its rank and its reach -> hidden in the order of rank, until ⌊rate·n + ½⌋ tokens are -> as `masked`: 80/10/10 a token

A row's number of predictions is that of `masked`, known before a token is read. Departure: so the last word is cut where it would pass that number (the last span
too, as in SpanBERT). No word and no span passes the end of a text.

Departures: a word of more than 10 pieces counts as several, of 10 pieces each and a rest, since scripts without spaces have whole sentences between two `▁`; for the
same reason spans are of pieces, where SpanBERT's are of words.

All of it is arithmetic of integers, so the masks of a (seed, sample, place) are the same on every machine. Weighted choice: with u uniform, those tokens are taken whose
−log(u) / weight is smallest (Efraimidis and Spirakis 2006), that is, whose log₂(−log₂ u) + alpha·log₂ frequency is; logarithms are read from a table of 2¹² entries
made by repeated squaring of integers, lines in between, exact to 2⁻²⁶.

Legend: V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.training import kernels

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]

MOST = 10
"""Pieces of the longest word and of the longest span."""

_MILLION = 1_000_000
_NO_FLAGS, _NO_ENDS, _NO_COSTS = np.zeros(0, np.bool_), np.zeros(0, np.uint64), np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class WholeWords:
    """Hides words with all of their pieces."""

    begins_V: Bool
    """Of each id, whether it begins a word."""

    def arguments(self, vocab_size: int) -> tuple[int, Bool, int, U64, I64, I64]:
        """What `kernels.hide_in_order` takes.

        Raises:
            ValueError: the table is not one of this vocabulary.
        """
        _check_table(self.begins_V, vocab_size)
        return kernels.WORDS, self.begins_V, MOST, _NO_ENDS, _NO_COSTS, _NO_COSTS


@dataclass(frozen=True)
class Spans:
    """Hides runs of pieces."""

    def arguments(self, vocab_size: int) -> tuple[int, Bool, int, U64, I64, I64]:
        """What `kernels.hide_in_order` takes."""
        return kernels.SPANS, _NO_FLAGS, MOST, span_ends(), _NO_COSTS, _NO_COSTS


@dataclass(frozen=True, eq=False)
class ByFrequency:
    """Hides each token with a weight; see `by_frequency`."""

    cost_V: I64
    """Of each id, −log₂ of its weight, 32 bits behind the point."""

    def arguments(self, vocab_size: int) -> tuple[int, Bool, int, U64, I64, I64]:
        """What `kernels.hide_in_order` takes.

        Raises:
            ValueError: the table is not one of this vocabulary.
        """
        _check_table(self.cost_V, vocab_size)
        return kernels.WEIGHTS, _NO_FLAGS, MOST, _NO_ENDS, self.cost_V, log_table()


Choice: TypeAlias = WholeWords | Spans | ByFrequency


def by_frequency(counts_V: I64, alpha: float) -> ByFrequency:
    """Weights ∝ count^−alpha; an id that was not counted weighs as one that was counted once.

    counts_V: of each id in the training text. alpha: in (0, 1], to a millionth.

    Raises:
        ValueError: alpha is outside (0, 1].
    """
    millionths = round(alpha * _MILLION)
    if not 1 <= millionths <= _MILLION:
        raise ValueError(f"mask: frequency_alpha is {alpha:g}; it must be above 0 and at most 1 (XLM has 0.5)")
    logs_V = kernels.log2(np.maximum(counts_V, 1).astype(np.uint64), log_table())
    return ByFrequency(logs_V * millionths // _MILLION)


@cache
def span_ends() -> U64:
    """[9] the length of a span is one more than how many of these its 64 random bits reach: geometric, p = .2, cut at 10 and scaled to 1."""
    whole = 5**MOST - 4**MOST
    return np.array([(5**n - 4**n) * 5 ** (MOST - n) * (1 << 64) // whole for n in range(1, MOST)], np.uint64)


@cache
def log_table() -> I64:
    """[2¹² + 1] log₂(1 + i / 2¹²), 32 bits behind the point: a bit for each squaring, 1 where the square reaches 2."""
    one, size = np.uint64(31), 1 << kernels.TABLE_BITS
    x_N = np.uint64(1 << 31) + (np.arange(size, dtype=np.uint64) << np.uint64(31 - kernels.TABLE_BITS))
    found_N = np.zeros(size, np.uint64)
    for _ in range(kernels.FRACTION):
        x_N = x_N * x_N >> one
        passes_N = x_N >> np.uint64(32)
        x_N >>= passes_N
        found_N = found_N << np.uint64(1) | passes_N
    return np.append(found_N.astype(np.int64), np.int64(1 << kernels.FRACTION))


def _check_table(table_V: npt.NDArray[np.generic], vocab_size: int) -> None:
    if len(table_V) != vocab_size:
        raise ValueError(f"mask: a table of {len(table_V)} ids for a vocabulary of {vocab_size}; make it from the vocabulary of the tokens")
