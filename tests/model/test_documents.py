"""Attention within documents: each document of a row is computed as if it were alone, by mask or by runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.model.build import build_masked_lm
from pipeline.model.documents import Within, runs
from pipeline.model.masked_lm import MaskedLM, masked_lm_loss
from tests.model.conftest import SMALL, VOCAB

FIRST, SECOND, THIRD = [0, 9, 12, 17, 2], [30, 31, 2], [40, 41, 42, 43, 2]
SEGMENTS = torch.tensor([[0] * 5 + [1] * 3 + [-1] * 2, [0] * 3 + [1] * 5 + [-1] * 2], dtype=torch.int16)


def batch_of(rows: list[list[list[int]]], places: int, *, within: bool, causal: bool) -> dict[str, torch.Tensor]:
    """Rows of documents; every token is to be predicted (as itself), positions begin anew at each document."""
    ids, positions, segments = (torch.full((len(rows), places), fill) for fill in (1, 1, -1))
    for b, documents in enumerate(rows):
        at = 0
        for number, document in enumerate(documents):
            here = slice(at, at + len(document))
            ids[b, here], segments[b, here] = torch.tensor(document), number
            positions[b, here] = torch.arange(2, 2 + len(document))
            at += len(document)
    real = (segments >= 0).flatten()
    return {
        "input_ids_BT": ids, "attention_BT": segments >= 0, "positions_BT": positions, "segments_BT": segments.to(torch.int16),
        "masked_index_M": torch.arange(real.numel()), "labels_M": ids.flatten(), "weights_M": real.float(),
        "within_documents": torch.tensor(within), "is_causal": torch.tensor(causal),
    }  # fmt: skip


def module_of(dropout: float = 0.0) -> MaskedLM:
    """With weights large enough that what a token sees matters."""
    module = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=0, dropout=dropout, max_length=16))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(6)
    return module


@pytest.mark.parametrize("causal", [False, True])
def test_documents_of_a_row_are_computed_as_if_each_were_alone(causal: bool) -> None:
    module = module_of()
    together = masked_lm_loss(module, batch_of([[FIRST, SECOND], [SECOND, THIRD]], 10, within=True, causal=causal))
    alone = [masked_lm_loss(module, batch_of([[each]], len(each), within=False, causal=causal)) for each in (FIRST, SECOND, SECOND, THIRD)]
    assert together.item() == pytest.approx(sum(alone).item(), rel=1e-5)  # type: ignore[union-attr]
    apart = masked_lm_loss(module, batch_of([[FIRST, SECOND], [SECOND, THIRD]], 10, within=False, causal=causal))
    assert abs(apart.item() - together.item()) > 0.1, "documents that see each other have another loss"


def test_dropped_probabilities_keep_to_documents_too() -> None:
    module = module_of(0.3).train()
    batch = batch_of([[FIRST, SECOND]], 10, within=True, causal=False) | {"dropout_keys_B": torch.tensor([7])}
    changed = batch | {"input_ids_BT": batch["input_ids_BT"].clone()}
    changed["input_ids_BT"][0, 5] = 55  # a word of the second document
    own = torch.arange(5)
    first = {"masked_index_M": own, "labels_M": batch["labels_M"][own], "weights_M": torch.ones(5)}
    assert masked_lm_loss(module, batch | first).item() == masked_lm_loss(module, changed | first).item()
    assert masked_lm_loss(module, batch).item() != masked_lm_loss(module, changed).item()


def test_runs_are_those_of_equal_segments_in_each_row() -> None:
    offsets, longest = runs(SEGMENTS.numpy())
    assert offsets.dtype == np.int32 and offsets.tolist() == [0, 5, 8, 10, 13, 18, 20] and longest == 5
    offsets, longest = runs(np.zeros((2, 4), np.int16))
    assert offsets.tolist() == [0, 4, 8] and longest == 4, "equal numbers in two rows are two documents"


@pytest.mark.parametrize("causal", [False, True])
def test_a_kernel_over_runs_gives_what_the_mask_gives(causal: bool) -> None:
    """torch's own kernel needs a GPU; a slow one with its arguments stands in for it."""

    def slow(query: Any, key: Any, value: Any, offsets: Any, _: Any, longest: int, other: int, *, window_size: tuple[int, int]) -> Any:
        assert longest == other == 5 and window_size == ((-1, 0) if causal else (-1, -1))
        out = torch.empty_like(query)
        for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            q, k, v = (each[start:stop].transpose(0, 1) for each in (query, key, value))
            out[start:stop] = functional.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(0, 1)
        return out

    offsets, longest = runs(SEGMENTS.numpy())
    within = Within(SEGMENTS, causal, torch.from_numpy(offsets), longest)
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, 4, 10, 8, generator=generator) for _ in range(3))
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=within.mask)
    torch.testing.assert_close(within.attend(query, key, value, kernel=slow), expected)
    assert not within.has_kernel(query), "on a CPU the mask is used"
