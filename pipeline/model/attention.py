"""Attention of our forward pass: torch's kernels on a GPU and in float32; on a CPU our own where probabilities are dropped, and in bfloat16.

Shapes: B rows, H heads, T places, K width of a head.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch.nn import functional

from pipeline.model.documents import Within
from pipeline.model.dropout import RowDropout


class _DroppedAttention(torch.autograd.Function):
    """softmax(q kᵀ) with dropped probabilities, times v, a row at a time so that its scores stay in the cache of a core."""

    @staticmethod
    def forward(
        ctx: Any,
        query_BHTK: torch.Tensor,
        key_BHTK: torch.Tensor,
        value_BHTK: torch.Tensor,
        mask_B1TT: torch.Tensor | None,
        dropout: RowDropout,
        site: int,
    ) -> torch.Tensor:
        batch, heads, length, width = query_BHTK.shape
        factor = width**-0.5
        keep_BHTT = dropout.keep(site, (batch, heads, length, length), query_BHTK.device, query_BHTK.dtype)
        probability_BHTT = torch.empty(batch, heads, length, length, dtype=query_BHTK.dtype)
        out_BHTK = torch.empty(query_BHTK.shape, dtype=query_BHTK.dtype)
        for row in range(batch):
            scores_HTT = torch.matmul(query_BHTK[row] * factor, key_BHTK[row].transpose(1, 2))
            if mask_B1TT is not None:
                scores_HTT.masked_fill_(~mask_B1TT[row], float("-inf"))
            torch.softmax(scores_HTT, dim=-1, out=probability_BHTT[row])
            kept_HTT = probability_BHTT[row] * keep_BHTT[row]
            torch.mul(torch.matmul(kept_HTT, value_BHTK[row]), dropout.scale, out=out_BHTK[row])
        ctx.save_for_backward(query_BHTK, key_BHTK, value_BHTK, probability_BHTT)
        ctx.about = (dropout, site, factor)
        return out_BHTK

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_BHTK, key_BHTK, value_BHTK, probability_BHTT = ctx.saved_tensors
        dropout, site, factor = ctx.about
        grads = [torch.empty(each.shape, dtype=each.dtype) for each in (query_BHTK, key_BHTK, value_BHTK)]
        keep_BHTT = dropout.keep(site, tuple(probability_BHTT.shape), query_BHTK.device, query_BHTK.dtype)
        for row in range(len(query_BHTK)):
            grad_HTK = grad_outputs[0][row] * dropout.scale
            keep_HTT, probability_HTT = keep_BHTT[row], probability_BHTT[row]
            torch.matmul((probability_HTT * keep_HTT).transpose(1, 2), grad_HTK, out=grads[2][row])
            grad_HTT = torch.matmul(grad_HTK, value_BHTK[row].transpose(1, 2)).mul_(keep_HTT)
            grad_HTT = torch._softmax_backward_data(grad_HTT, probability_HTT, -1, probability_HTT.dtype)
            torch.mul(torch.matmul(grad_HTT, key_BHTK[row]), factor, out=grads[0][row])
            torch.mul(torch.matmul(grad_HTT.transpose(1, 2), query_BHTK[row]), factor, out=grads[1][row])
        return (*grads, None, None, None)


ROWS_ELEMENTS = 1 << 22
"""Attention scores worked out at a time on a CPU, 8 MiB in bfloat16."""


class _RowsAttention(torch.autograd.Function):
    """softmax(q kᵀ) v in bfloat16 on a CPU, some rows at a time so that their scores stay in the cache; the backward pass computes them again, so that none are kept.

    torch's own kernel there keeps no scores either, and takes two to three times as long at width 64.
    """

    @staticmethod
    def forward(
        ctx: Any, query_BHTK: torch.Tensor, key_BHTK: torch.Tensor, value_BHTK: torch.Tensor, mask_B1TT: torch.Tensor | None
    ) -> torch.Tensor:
        out_BHTK = torch.empty(query_BHTK.shape, dtype=query_BHTK.dtype)
        for rows in _groups(query_BHTK):
            probability = _probability(query_BHTK[rows], key_BHTK[rows], None if mask_B1TT is None else mask_B1TT[rows])
            torch.matmul(probability, value_BHTK[rows], out=out_BHTK[rows])
        ctx.save_for_backward(query_BHTK, key_BHTK, value_BHTK, mask_B1TT)
        return out_BHTK

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_BHTK, key_BHTK, value_BHTK, mask_B1TT = ctx.saved_tensors
        factor = query_BHTK.shape[-1] ** -0.5
        grads = [torch.empty(each.shape, dtype=each.dtype) for each in (query_BHTK, key_BHTK, value_BHTK)]
        for rows in _groups(query_BHTK):
            probability = _probability(query_BHTK[rows], key_BHTK[rows], None if mask_B1TT is None else mask_B1TT[rows])
            grad = grad_outputs[0][rows]
            torch.matmul(probability.transpose(2, 3), grad, out=grads[2][rows])
            grad_scores = torch.matmul(grad, value_BHTK[rows].transpose(2, 3))
            grad_scores = torch._softmax_backward_data(grad_scores, probability, -1, probability.dtype)
            torch.mul(torch.matmul(grad_scores, key_BHTK[rows]), factor, out=grads[0][rows])
            torch.mul(torch.matmul(grad_scores.transpose(2, 3), query_BHTK[rows]), factor, out=grads[1][rows])
        return (*grads, None)


def _groups(query_BHTK: torch.Tensor) -> list[slice]:
    """Rows that are worked out together."""
    batch, heads, length, _ = query_BHTK.shape
    step = max(1, ROWS_ELEMENTS // (heads * length * length))
    return [slice(start, start + step) for start in range(0, batch, step)]


def _probability(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(2, 3))
    if mask is not None:
        scores.masked_fill_(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1)


Sight: TypeAlias = torch.Tensor | Within | None
"""What tokens see: a mask [B, 1, T, T], True where a token (second last) may see another (last), or what stands for one; None where all see all."""


def attend(query_BHTK: torch.Tensor, key_BHTK: torch.Tensor, value_BHTK: torch.Tensor, sight: Sight, dropout: RowDropout) -> torch.Tensor:
    """Attention [B, H, T, K]."""
    if isinstance(sight, Within) and not dropout.drops and sight.has_kernel(query_BHTK):
        return sight.attend(query_BHTK, key_BHTK, value_BHTK)
    mask_B1TT = sight.mask if isinstance(sight, Within) else sight
    if not dropout.drops:
        if query_BHTK.device.type == "cpu" and query_BHTK.dtype == torch.bfloat16 and not torch.compiler.is_compiling():
            return _RowsAttention.apply(query_BHTK, key_BHTK, value_BHTK, mask_B1TT)
        return functional.scaled_dot_product_attention(query_BHTK, key_BHTK, value_BHTK, attn_mask=mask_B1TT)
    site = dropout.site()
    if query_BHTK.device.type == "cpu":
        return _DroppedAttention.apply(query_BHTK, key_BHTK, value_BHTK, mask_B1TT, dropout, site)
    probability = 1 - 1 / dropout.scale
    return functional.scaled_dot_product_attention(query_BHTK, key_BHTK, value_BHTK, attn_mask=mask_B1TT, dropout_p=probability)
