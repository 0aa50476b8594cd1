"""Best-fit packing: whole documents into rows, none cut that fits a row (Ding et al. 2024, arXiv 2404.10830).

    documents longer than a row   -> full rows of their own, and what is left over as one more piece
    pieces, the longest first     -> each into the fullest row that still takes it, else into a new one      (best-fit-decreasing)

Concatenate-and-cut loses no place but cuts most documents; this cuts none that fits and loses little: first the large pieces, then the small ones into what is
left. Rows come in the order in which they were begun, spans within a row in the order in which they were added, equal lengths in the order of the corpus.

The rows that are open are kept by their room, one stack for each number of free places, and a bitmap tells the first stack that is not empty, so a piece costs
O(max_tokens / 64). The heap of the paper's segment tree would cost O(log max_tokens) with a larger constant.

Legend: D documents, P pieces, R rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, uint64

from pipeline.text.packing import I64, MIN_TOKENS, Packed


def pack_best_fit(document_lengths: npt.NDArray[np.integer], *, max_tokens: int) -> Packed:
    """Fill rows with whole documents, best fit first.

    document_lengths: [D] in tokens, without special tokens; an empty document takes no room.
    max_tokens: length of a row, with `<s>` and one `</s>` for each span.

    Raises:
        ValueError: a negative length, or max_tokens below 3.
    """
    lengths_D = checked_lengths("pack_best_fit", document_lengths, max_tokens)
    capacity = max_tokens - 2  # tokens of a row that lies in one document
    full_D, rest_D = np.divmod(lengths_D, capacity)
    pieces_D = full_D + (rest_D > 0)
    document_P = np.repeat(np.arange(len(lengths_D), dtype=np.int64), pieces_D)
    number_P = np.arange(len(document_P), dtype=np.int64) - np.repeat(np.cumsum(pieces_D) - pieces_D, pieces_D)
    start_P = number_P * capacity
    length_P = np.minimum(lengths_D[document_P] - start_P, capacity)
    order_P = np.argsort(-length_P, kind="stable")
    row_P = _best_fit(length_P[order_P], max_tokens)
    by_row = np.argsort(row_P, kind="stable")
    span_P = order_P[by_row]
    num_rows = int(row_P.max(initial=-1)) + 1
    return Packed(
        row_offsets=np.searchsorted(row_P[by_row], np.arange(num_rows + 1)).astype(np.int64),
        span_document=document_P[span_P],
        span_start=start_P[span_P],
        span_length=length_P[span_P],
        max_tokens=max_tokens,
    )


def checked_lengths(what: str, document_lengths: npt.NDArray[np.integer], max_tokens: int) -> I64:
    """The lengths as int64 [D].

    Raises:
        ValueError: a negative length, or max_tokens below 3.
    """
    lengths_D = np.asarray(document_lengths, dtype=np.int64)
    if lengths_D.ndim != 1:
        raise ValueError(f"{what}: lengths of shape {lengths_D.shape}; one a document is wanted")
    if max_tokens < MIN_TOKENS:
        raise ValueError(f"{what}: max_tokens is {max_tokens}; a row of <s>, one token and </s> needs at least {MIN_TOKENS}")
    if lengths_D.size and int(lengths_D.min()) < 0:
        raise ValueError(f"{what}: a document has {int(lengths_D.min())} tokens; lengths are 0 or more")
    return lengths_D


@njit(cache=True)
def _best_fit(lengths: Any, max_tokens: int) -> Any:
    """The row of each piece, rows numbered as they are begun; lengths fall, and each costs its tokens and a `</s>`."""
    pieces = len(lengths)
    row_of = np.empty(pieces, np.int64)
    below = np.empty(pieces, np.int64)  # row -> the row beneath it in its stack
    top = np.full(max_tokens + 1, -1, np.int64)  # free places -> the row on top
    bitmap = np.zeros((max_tokens >> 6) + 1, np.uint64)
    rows = 0
    for p in range(pieces):
        cost = lengths[p] + 1
        word = cost >> 6
        held = (bitmap[word] >> uint64(cost & 63)) << uint64(cost & 63)
        while held == 0 and word + 1 < len(bitmap):
            word += 1
            held = bitmap[word]
        if held == 0:
            row, free = rows, max_tokens - 1
            rows += 1
        else:
            bit = 0
            while (held >> uint64(bit)) & uint64(1) == 0:
                bit += 1
            free = (word << 6) + bit
            row = top[free]
            top[free] = below[row]
            if top[free] < 0:
                bitmap[word] &= ~(uint64(1) << uint64(bit))
        row_of[p] = row
        free -= cost
        below[row] = top[free]
        top[free] = row
        bitmap[free >> 6] |= uint64(1) << uint64(free & 63)
    return row_of
