"""Translation language modelling: masked language modelling on packed pairs, whose sides see each other (Lample and Conneau 2019, section 3.3).

    row as packed     <s> a1 a2 </s> b1 </s> c1 </s> d1 d2 </s>        two pairs (a, b) and (c, d)
    as trained        <s> b1 </s> a1 a2 </s> c1 </s> d1 d2 </s>        of each pair the order is drawn
    positions           2  3  4   2  3  4   2  3   2  3  4             beginning anew at each side

Masks are those of `masked`. The order is a pure function of (seed, sample index, number of the pair in its row), so a pair that comes again may come the other way.
Language embeddings are an option (`pretrain.language_embeddings`, of XLM): `sided` tells which side a token is of, which a swap does not change.

Legend: B rows, T places of a row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.text.packing import EOS, FIRST_POSITION, PAD
from pipeline.training.counter import bits, derive
from pipeline.training.objectives.choices import Choice
from pipeline.training.objectives.masked import DEFAULT_RATE, MaskedLanguageModel
from pipeline.training.packed_rows import Gathered

I64 = npt.NDArray[np.int64]
Indices = npt.NDArray[np.integer]


def objective(rate_millionths: int = DEFAULT_RATE, choice: Choice | None = None) -> MaskedLanguageModel:
    """The objective of this file, to be applied to rows of `swapped` sides; the registry's way in.

    Raises:
        ValueError: the rate is outside 1..1,000,000.
    """
    return MaskedLanguageModel(rate_millionths, choice)


def swapped(gathered: Gathered, lengths_B: Indices, samples_B: Indices, *, seed: int) -> Gathered:
    """Rows of pairs in which the sides of every second pair or so have changed places; positions begin anew at each side.

    gathered: rows of pairs as `RowReader` gives them, spans 2k and 2k + 1 the sides of pair k. samples_B: global sample index of each row.
    """
    ids_BT, places = gathered.ids_BT, gathered.ids_BT.shape[1]
    is_token_BT = np.arange(places) < np.asarray(lengths_B)[:, None]
    ends_BT = (ids_BT == EOS) & is_token_BT
    span_BT = _spans(ends_BT)
    drawn_BT = (bits(derive(seed, "sides"), 0, np.asarray(samples_B)[:, None], span_BT // 2) & np.uint64(1)).astype(np.int64)
    rank_BT = np.where(is_token_BT, span_BT ^ drawn_BT, places)  # a side's number with its last bit turned is that of the other side
    rank_BT[:, 0] = -1  # <s> stays
    order_BT = np.argsort(rank_BT, axis=1, kind="stable")
    turned_BT = np.take_along_axis(ids_BT, order_BT, axis=1)
    is_first_BT = np.zeros(ids_BT.shape, np.bool_)
    is_first_BT[:, 1:] = ((turned_BT == EOS) & is_token_BT)[:, :-1]
    begin_BT = np.maximum.accumulate(np.where(is_first_BT, np.arange(places), 0), axis=1)
    positions_BT = np.where(is_token_BT, np.arange(places) - begin_BT + FIRST_POSITION, PAD)
    sides_BT = None if gathered.sides_BT is None else np.take_along_axis(gathered.sides_BT, order_BT, axis=1)
    if sides_BT is not None:
        sides_BT[:, 0] = sides_BT[:, min(1, places - 1)]  # <s> is of the side that it stands before
    return Gathered(turned_BT, gathered.segments_BT, positions_BT, sides_BT)


def sided(gathered: Gathered, lengths_B: Indices) -> Gathered:
    """Rows of pairs as stored, with the side that each token is of; `<s>` is of the side it stands before, padding of either."""
    is_token_BT = np.arange(gathered.ids_BT.shape[1]) < np.asarray(lengths_B)[:, None]
    return gathered._replace(sides_BT=_spans((gathered.ids_BT == EOS) & is_token_BT) % 2)


def _spans(ends_BT: npt.NDArray[np.bool_]) -> I64:
    """[B, T] number of the span within its row that a token belongs to."""
    found: I64 = np.cumsum(ends_BT, axis=1) - ends_BT
    return found
