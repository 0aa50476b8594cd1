"""Losses as weighted sums: the caller divides by the weight of the whole step, so no cut of the batch changes it.

A mean over a micro-batch, averaged over ranks and accumulation, is not the mean over the batch when the parts
hold unequal numbers of masked positions. So every loss here is Σ weight · nll, float32, and nothing is divided.

    hidden_MD, S rows of the output embeddings -> logits_MS -> log Σ exp of the slice, kept; ... -> nll_M -> Σ
    each slice again: softmax less target -> gradient of the S rows, written once; added to the gradient of hidden_MD

The logits of at most `HELD_BYTES` are held, in the format of the products, and let go before the call ends; float32 ones never live
for more than a slice that a core's cache holds. The gradient is formed in the forward pass, so no product is computed twice, and that of
the embeddings, 0.8 GB for XLM-R, is written once for all positions rather than added up over slices of positions.

Shapes: M masked positions, S ids of a slice, D width, V vocabulary, B rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

SLICE_ELEMENTS = 1 << 22
"""Logits of a slice: 16 MiB in float32 on a CPU; on a GPU sixteen times that."""
HELD_BYTES = 1 << 29
"""Bytes of logits held at a time; more positions come in several chunks, whose gradients are added up."""


@dataclass
class TiedGradient:
    """The gradient of tied embeddings on its way from the output, where it is formed, to the lookup, which comes last in a backward pass.

    So it is handed to the parameter once and whole, rather than as two tables of V × D that are added.
    """

    formed: torch.Tensor | None = None
    """Float32 [V, D], taken by the lookup."""


class _VocabularyLoss(torch.autograd.Function):
    """Σ weight · cross-entropy of a linear layer over the vocabulary, with its gradient formed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor,
        labels_M: torch.Tensor,
        weights_M: torch.Tensor,
        dtype: torch.dtype,
        tied: TiedGradient | None,
        with_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positions, vocab = hidden_MD.shape[0], weight_VD.shape[0]
        most = max(1, HELD_BYTES // (vocab * dtype.itemsize))
        nll_M = torch.empty(positions, dtype=torch.float32, device=hidden_MD.device)
        grad_hidden_MD = torch.empty(hidden_MD.shape, dtype=torch.float32, device=hidden_MD.device) if with_gradient else None
        # Float32 whatever the products are in, so that chunks add up without loss.
        grad_weight_VD = torch.empty(weight_VD.shape, dtype=torch.float32, device=weight_VD.device) if with_gradient else None
        grad_bias_V = torch.empty(vocab, dtype=torch.float32, device=weight_VD.device) if with_gradient else None
        if grad_weight_VD is not None and not positions:
            grad_weight_VD.zero_(), grad_bias_V.zero_()  # type: ignore[union-attr]
        for start in range(0, positions, most):
            part = slice(start, min(start + most, positions))
            _chunk(
                hidden_MD[part].to(dtype), weight_VD, bias_V, labels_M[part], weights_M[part], nll_M[part],
                None if grad_hidden_MD is None else grad_hidden_MD[part], grad_weight_VD, grad_bias_V, is_first=start == 0,
            )  # fmt: skip
        if with_gradient:
            ctx.save_for_backward(grad_hidden_MD, grad_weight_VD, grad_bias_V)
            ctx.dtypes = (hidden_MD.dtype, weight_VD.dtype, bias_V.dtype)
            ctx.tied = tied
        ctx.mark_non_differentiable(nll_M)
        return (nll_M * weights_M).sum(), nll_M

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scale = grad_outputs[0]
        grad_hidden_MD, grad_weight_VD, grad_bias_V = ctx.saved_tensors
        hidden_dtype, weight_dtype, bias_dtype = ctx.dtypes
        grad_weight = grad_weight_VD.mul_(scale)  # formed for this one backward pass
        if ctx.tied is not None:
            ctx.tied.formed, grad_weight = grad_weight, None
        return (
            (grad_hidden_MD * scale).to(hidden_dtype),
            None if grad_weight is None else grad_weight.to(weight_dtype),
            (grad_bias_V * scale).to(bias_dtype),
            None,
            None,
            None,
            None,
            None,
        )


def _chunk(
    hidden_MD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor,
    labels_M: torch.Tensor,
    weights_M: torch.Tensor,
    nll_M: torch.Tensor,
    grad_hidden_MD: torch.Tensor | None,
    grad_weight_VD: torch.Tensor | None,
    grad_bias_V: torch.Tensor | None,
    *,
    is_first: bool,
) -> None:
    """Fill in the nats of some positions, and add their gradients; `nll_M` and the gradients are written in place."""
    dtype, vocab = hidden_MD.dtype, weight_VD.shape[0]
    elements = SLICE_ELEMENTS if hidden_MD.device.type == "cpu" else 16 * SLICE_ELEMENTS
    width = max(1, elements // max(1, len(hidden_MD)))
    held: list[torch.Tensor] = []
    totals: list[torch.Tensor] = []
    label_logit_M1 = torch.zeros(len(hidden_MD), 1, dtype=torch.float32, device=hidden_MD.device)
    for first in range(0, vocab, width):
        ids = slice(first, min(first + width, vocab))
        logits_MS = functional.linear(hidden_MD, weight_VD[ids].to(dtype), bias_V[ids].to(dtype))
        totals.append(torch.logsumexp(logits_MS.float(), dim=1))
        inside_M1, at_M1 = _inside(labels_M, ids)
        label_logit_M1 = torch.where(inside_M1, logits_MS.gather(1, at_M1).float(), label_logit_M1)
        if grad_hidden_MD is not None:
            held.append(logits_MS)
    log_total_M1 = torch.logsumexp(torch.stack(totals), dim=0).unsqueeze(1)
    torch.sub(log_total_M1.squeeze(1), label_logit_M1.squeeze(1), out=nll_M)
    if grad_hidden_MD is None or grad_weight_VD is None or grad_bias_V is None:
        return
    weights_M1 = weights_M.unsqueeze(1)
    grad_hidden_MD.zero_()
    for number, first in enumerate(range(0, vocab, width)):
        ids = slice(first, min(first + width, vocab))
        logits_MS, held[number] = held[number], hidden_MD  # let go as soon as it is used
        grad_MS = logits_MS.float() if dtype != torch.float32 else logits_MS
        grad_MS.sub_(log_total_M1).exp_()
        inside_M1, at_M1 = _inside(labels_M, ids)
        grad_MS.scatter_add_(1, at_M1, -inside_M1.float()).mul_(weights_M1)
        low_MS = grad_MS.to(dtype)
        grad_hidden_MD += low_MS @ weight_VD[ids].to(dtype)
        if is_first:
            torch.sum(grad_MS, dim=0, out=grad_bias_V[ids])
            if dtype == torch.float32:
                torch.mm(low_MS.t(), hidden_MD, out=grad_weight_VD[ids])
            else:
                grad_weight_VD[ids].copy_(low_MS.t() @ hidden_MD)
        else:
            grad_bias_V[ids] += grad_MS.sum(dim=0)
            grad_weight_VD[ids] += low_MS.t() @ hidden_MD


def _inside(labels_M: torch.Tensor, ids: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each label is among the ids of a slice, and its place there (0 if not); both [M, 1]."""
    labels_M1 = labels_M.unsqueeze(1)
    inside_M1 = (labels_M1 >= ids.start) & (labels_M1 < ids.stop)
    return inside_M1, torch.where(inside_M1, labels_M1 - ids.start, 0)


def vocabulary_loss(
    hidden_MD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor,
    labels_M: torch.Tensor,
    weights_M: torch.Tensor,
    tied: TiedGradient | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ_m weights_M · −log softmax(hidden_MD · weight_VDᵀ + bias_V)[labels_M], logits rounded to float32 first.

    Under autocast the products are in its format and the gradient of the weights is float32 all the same.

    Args:
        hidden_MD: vectors of the masked positions, any float dtype.
        weight_VD: output embeddings.
        bias_V: output bias.
        labels_M: int64 ids; where the weight is 0 any valid id.
        weights_M: float32, 0 for padding.
        tied: where the gradient of the weights goes instead of to the parameter; for the lookup of the same parameter.

    Returns:
        The sum, a float32 scalar with gradient, and the unweighted nll_M in nats, float32 without gradient.
    """
    kind = hidden_MD.device.type
    # A custom function is not seen by autocast; this casts as its linear layer would.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VD.dtype
    with torch.autocast(kind, enabled=False):
        loss, nll_M = _VocabularyLoss.apply(hidden_MD, weight_VD, bias_V, labels_M, weights_M, dtype, tied, torch.is_grad_enabled())
    return loss, nll_M


def classification_loss(logits_BK: torch.Tensor, labels_B: torch.Tensor, weights_B: torch.Tensor) -> torch.Tensor:
    """Σ_b weights_B · cross-entropy, a float32 scalar; labels are int64 class ids, weights float32, 0 for padding."""
    nll_B = functional.cross_entropy(logits_BK.float(), labels_B, reduction="none")
    return (nll_B * weights_B).sum()
