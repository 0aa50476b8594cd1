"""Attention of our own on a CPU against torch's in float32."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pipeline.model import attention
from pipeline.model.attention import attend
from pipeline.model.dropout import RowDropout

BATCH, HEADS, LENGTH, WIDTH = 3, 2, 24, 16


def _masks() -> dict[str, torch.Tensor | None]:
    real_BT = torch.arange(LENGTH) < torch.tensor([[LENGTH], [9], [1]])
    causal_TT = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    return {"none": None, "padding": real_BT[:, None, None, :], "causal": causal_TT.expand(BATCH, 1, LENGTH, LENGTH)}


@pytest.mark.parametrize("mask", sorted(_masks()))
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_bfloat16_agrees_with_float32_forward_and_backward(mask: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "ROWS_ELEMENTS", rows * HEADS * LENGTH * LENGTH)
    generator = torch.Generator().manual_seed(4)
    low = [torch.randn(BATCH, LENGTH, HEADS, WIDTH, generator=generator).bfloat16().transpose(1, 2) for _ in range(4)]
    sight, grad = _masks()[mask], low.pop()
    for each in low:
        each.requires_grad_()
    high = [each.detach().float().requires_grad_() for each in low]
    found = attend(low[0], low[1], low[2], sight, RowDropout(None, 0.0))
    expected = functional.scaled_dot_product_attention(high[0], high[1], high[2], attn_mask=sight)
    assert found.dtype == torch.bfloat16 and "RowsAttention" in type(found.grad_fn).__name__
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)
    of_low, of_high = torch.autograd.grad(found, low, grad), torch.autograd.grad(expected, high, grad.float())
    for got, wanted in zip(of_low, of_high, strict=True):
        assert (got.float() - wanted).norm() < 0.01 * wanted.norm()


def test_float32_is_left_to_torch() -> None:
    query, key, value = (torch.randn(1, 2, 4, 8, requires_grad=True) for _ in range(3))
    found = attend(query, key, value, None, RowDropout(None, 0.0))
    assert torch.equal(found, functional.scaled_dot_product_attention(query, key, value))
