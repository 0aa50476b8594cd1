"""Losses as weighted sums: the caller divides by the weight of the whole step, so no cut of the batch changes it.

A mean over a micro-batch, averaged over ranks and accumulation, is not the mean over the batch when the parts
hold unequal numbers of masked positions. So every loss here is Σ weight · nll, float32, and nothing is divided.

    hidden_MD -> logits_CV, a slice of C positions at a time -> nll_C -> Σ
                 gradients of that slice at once, the slice is dropped

The vocabulary loss never holds logits for all M positions: at 250,002 ids and 600 masked positions these
would be 0.6 GB in float32, and autograd keeps them three times. Its gradient is formed in the forward pass,
slice by slice, as the softmax minus the target, so no product is computed twice.

Shapes: M masked positions, C of them in a slice, D width, V vocabulary, B rows, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

SLICE_ELEMENTS = 1 << 24
"""Logits held at a time: 64 MiB in float32, a handful of times that at the peak."""


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
        with_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positions, vocab = hidden_MD.shape[0], weight_VD.shape[0]
        step = max(1, SLICE_ELEMENTS // vocab)
        nll_M = torch.empty(positions, dtype=torch.float32, device=hidden_MD.device)
        if with_gradient:
            grad_hidden_MD = torch.empty_like(hidden_MD)
            # Float32 whatever the weights are, so that many slices add up without loss.
            grad_weight_VD = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device)
            grad_bias_V = torch.zeros(vocab, dtype=torch.float32, device=weight_VD.device)
        for start in range(0, positions, step):
            part = slice(start, min(start + step, positions))
            logits_CV = functional.linear(hidden_MD[part], weight_VD, bias_V).float()
            log_total_C1 = torch.logsumexp(logits_CV, dim=1, keepdim=True)
            labels_C1 = labels_M[part].unsqueeze(1)
            nll_M[part] = (log_total_C1 - logits_CV.gather(1, labels_C1)).squeeze(1)
            if with_gradient:
                weights_C1 = weights_M[part].unsqueeze(1)
                grad_CV = logits_CV.sub_(log_total_C1).exp_()
                grad_CV.scatter_add_(1, labels_C1, torch.full_like(log_total_C1, -1.0)).mul_(weights_C1)
                grad_bias_V += grad_CV.sum(dim=0)
                low_CV = grad_CV.to(weight_VD.dtype)
                grad_hidden_MD[part] = low_CV @ weight_VD
                if low_CV.dtype == torch.float32:
                    grad_weight_VD.addmm_(low_CV.t(), hidden_MD[part])
                else:
                    grad_weight_VD += low_CV.t() @ hidden_MD[part]
        if with_gradient:
            ctx.save_for_backward(grad_hidden_MD, grad_weight_VD, grad_bias_V)
            ctx.dtypes = (weight_VD.dtype, bias_V.dtype)
        ctx.mark_non_differentiable(nll_M)
        return (nll_M * weights_M).sum(), nll_M

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scale = grad_outputs[0]
        grad_hidden_MD, grad_weight_VD, grad_bias_V = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            grad_hidden_MD * scale.to(grad_hidden_MD.dtype),
            (grad_weight_VD * scale).to(weight_dtype),
            (grad_bias_V * scale).to(bias_dtype),
            None,
            None,
            None,
        )


def vocabulary_loss(
    hidden_MD: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor, labels_M: torch.Tensor, weights_M: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ_m weights_M · −log softmax(hidden_MD · weight_VDᵀ + bias_V)[labels_M], logits rounded to float32 first.

    Args:
        hidden_MD: vectors of the masked positions, any float dtype.
        weight_VD: output embeddings, same dtype.
        bias_V: output bias, same dtype.
        labels_M: int64 ids; where the weight is 0 any valid id.
        weights_M: float32, 0 for padding.

    Returns:
        The sum, a float32 scalar with gradient, and the unweighted nll_M in nats, float32 without gradient.
    """
    if torch.is_autocast_enabled(hidden_MD.device.type):
        # A custom function is not seen by autocast; this casts as its linear layer would.
        dtype = torch.get_autocast_dtype(hidden_MD.device.type)
        hidden_MD, weight_VD, bias_V = hidden_MD.to(dtype), weight_VD.to(dtype), bias_V.to(dtype)
    with torch.autocast(hidden_MD.device.type, enabled=False):
        loss, nll_M = _VocabularyLoss.apply(hidden_MD, weight_VD, bias_V, labels_M, weights_M, torch.is_grad_enabled())
    return loss, nll_M


def classification_loss(logits_BK: torch.Tensor, labels_B: torch.Tensor, weights_B: torch.Tensor) -> torch.Tensor:
    """Σ_b weights_B · cross-entropy, a float32 scalar; labels are int64 class ids, weights float32, 0 for padding."""
    nll_B = functional.cross_entropy(logits_BK.float(), labels_B, reduction="none")
    return (nll_B * weights_B).sum()
