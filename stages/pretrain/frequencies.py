"""How frequent each id is in what a run trains on: where the output bias starts, so that the first steps are not spent on learning it.

rows of each language -> counts of its first `MOST` tokens -> shares of the plan -> p, add-one smoothed -> log p
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.training.packed_rows import PackedRows
from stages.pretrain.heldout import token_counts

MOST = 1 << 20
"""Tokens of a language that are counted at most: enough for every id that matters, and as fast for a large corpus as for a small one."""

F64 = npt.NDArray[np.float64]


def log_frequencies(rows: Mapping[str, PackedRows], planned: Mapping[str, int], vocab_size: int) -> F64:
    """[V] nats: log of each id's share of the tokens of a plan, each id counted once more than it comes.

    planned: tokens of each language in the plan; what is not in `rows` (pairs) is left aside.
    """
    share_V, total = np.zeros(vocab_size), 0
    for lang, packed in sorted(rows.items()):
        counts = _counts(packed, vocab_size)
        counted = int(counts.sum())
        if counted and planned.get(lang):
            share_V += counts * (planned[lang] / counted)
            total += planned[lang]
    return np.log((share_V + 1) / (total + vocab_size))


def _counts(packed: PackedRows, vocab_size: int) -> npt.NDArray[np.int64]:
    spans = int(np.searchsorted(np.cumsum(packed.span_length, dtype=np.int64), MOST)) + 1
    return token_counts(packed, vocab_size, spans)


def begin_with(model: Any, log_V: F64) -> None:
    """Set the output bias of a new model; one without a bias stays as it is."""
    import torch

    bias = model.get_output_embeddings().bias
    if bias is not None:
        with torch.no_grad():
            bias.copy_(torch.from_numpy(log_V).to(bias.dtype))
