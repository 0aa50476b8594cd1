"""Causal language modelling: each token of a row from those before it (Radford et al. 2018; as an objective beside MLM, Lample and Conneau 2019, section 3.1).

    row      <s> w1 w2 </s> w3 </s> <pad>
    labels   w1  w2 </s> w3 </s>              lengths − 1 predictions; a place sees itself and those before it

Nothing is drawn, so neither the seed nor the sample index takes part. The first word of a document is predicted from the `</s>` before it.

Legend: B rows, T places of a row, M = B·(T − 1) predictions of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.training.objectives.masked import Masked

I64 = npt.NDArray[np.int64]
Indices = npt.NDArray[np.integer]


@dataclass(frozen=True)
class CausalLanguageModel:
    """CLM as an objective: see `pipeline.training.batches.Objective`."""

    def apply(self, ids_BT: I64, lengths_B: Indices, samples_B: Indices, *, seed: int = 0, vocab_size: int = 0) -> Masked:
        """Predictions of all tokens but the first of each row; of what a row does not fill, the weight is 0."""
        rows, places = ids_BT.shape
        index_BP = np.arange(rows)[:, None] * places + np.arange(places - 1)
        is_used_BP = np.arange(1, places) < np.asarray(lengths_B)[:, None]
        return Masked(
            input_ids_BT=np.ascontiguousarray(ids_BT, np.int64),
            masked_index_M=np.where(is_used_BP, index_BP, 0).reshape(-1),
            labels_M=np.where(is_used_BP, ids_BT[:, 1:], 0).reshape(-1),
            weights_M=is_used_BP.astype(np.float32).reshape(-1),
            is_causal=True,
        )

    def counts(self, lengths_B: Indices, num_special_B: Indices) -> I64:
        """[B] tokens of each row less its first."""
        return np.asarray(lengths_B, np.int64) - 1


def objective() -> CausalLanguageModel:
    """The objective of this file; the registry's way in."""
    return CausalLanguageModel()
