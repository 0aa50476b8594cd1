"""Translation pairs into rows: `<s> a </s> b </s> a' </s> b' </s>`, for translation language modelling (Lample and Conneau 2019, section 3.3).

    pairs [D, 2] lengths of both sides -> whole pairs into rows, as documents are -> each pair as two spans, side a and then side b

A pair is never cut, since a cut would part a word from its translation: one that is longer than a row is left out, and so is one with an empty side; their tokens are
counted. Spans 2k and 2k + 1 of a row are the sides of its k-th pair, so a reader can keep pairs apart and let positions begin anew at side b, as XLM does.

Legend: D pairs, S spans.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from pipeline.text.best_fit import pack_best_fit
from pipeline.text.packing import Packed, pack_sentences


def pack_pairs(side_lengths: npt.NDArray[np.integer], *, max_tokens: int, best_fit: bool) -> tuple[Packed, dict[str, int]]:
    """Fill rows with whole pairs; gives the rows, and the tokens that are in none, by reason.

    side_lengths: [D, 2] in tokens, without special tokens. best_fit: each pair into the fullest row that takes it, else in order. Spans of side b begin where side a
    ends, since `encode` stores one behind the other.

    Raises:
        ValueError: a negative length, or max_tokens below 3.
    """
    sides_D2 = np.asarray(side_lengths, np.int64).reshape(-1, 2)
    whole_D = sides_D2.sum(axis=1) + 1  # the </s> between the sides
    empty_D = (sides_D2 < 1).any(axis=1)
    long_D = ~empty_D & (whole_D > max_tokens - 2)
    kept = np.flatnonzero(~empty_D & ~long_D)
    lengths = whole_D[kept]
    packed = (
        pack_best_fit(lengths, max_tokens=max_tokens) if best_fit else pack_sentences(lengths, np.arange(len(kept)), max_tokens=max_tokens)
    )
    pair_S = kept[packed.span_document]
    a_S, b_S = sides_D2[pair_S, 0], sides_D2[pair_S, 1]
    rows = dataclasses.replace(
        packed,
        row_offsets=packed.row_offsets * 2,
        span_document=np.repeat(pair_S, 2),
        span_start=np.stack([np.zeros_like(a_S), a_S], axis=1).reshape(-1),
        span_length=np.stack([a_S, b_S], axis=1).reshape(-1),
    )
    return rows, {"empty_side": int(sides_D2[empty_D].sum()), "longer_than_a_row": int(sides_D2[long_D].sum())}
