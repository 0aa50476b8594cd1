"""Concatenate-and-cut packing: all documents one behind the other, cut wherever a row is full (as GPT-2 and most decoders are trained on).

No place is lost but where less than two are left (a token and its `</s>`); the price is that most documents are cut. Each part of a document in a row
is a span closed by `</s>`, so that borders stay known.

Legend: D documents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from pipeline.text.best_fit import checked_lengths
from pipeline.text.packing import Packed


def pack_concatenated(document_lengths: npt.NDArray[np.integer], *, max_tokens: int) -> Packed:
    """Fill rows with the documents in order, to the last place.

    document_lengths: [D] in tokens, without special tokens; an empty document takes no room.
    max_tokens: length of a row, with `<s>` and one `</s>` for each span.

    Raises:
        ValueError: a negative length, or max_tokens below 3.
    """
    lengths_D = checked_lengths("pack_concatenated", document_lengths, max_tokens)
    rows, documents, starts, lengths = _cut(lengths_D, max_tokens)
    num_rows = int(rows[-1]) + 1 if len(rows) else 0
    return Packed(np.searchsorted(rows, np.arange(num_rows + 1)).astype(np.int64), documents, starts, lengths, max_tokens)


@njit(cache=True)
def _cut(lengths: Any, max_tokens: int) -> Any:
    most = len(lengths)
    for length in lengths:
        most += length // (max_tokens - 2) + 1
    rows, documents, starts, spans = (
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.int64),
    )
    used, row, free = 0, 0, max_tokens - 1
    for d in range(len(lengths)):
        at = 0
        while at < lengths[d]:
            if free < 2:
                row, free = row + 1, max_tokens - 1
            size = min(lengths[d] - at, free - 1)
            rows[used], documents[used], starts[used], spans[used] = row, d, at, size
            used += 1
            at += size
            free -= size + 1
    return rows[:used].copy(), documents[:used].copy(), starts[:used].copy(), spans[:used].copy()
