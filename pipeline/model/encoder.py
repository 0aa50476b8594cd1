"""The forward pass of an XLM-R encoder over the parameters of the Hugging Face model, faster and with dropout of our own.

    ids_BT -> word + position + type vectors -> layer norm -> layers -> hidden_BTD, or hidden_MD at the places that are asked for
    layer:   x -> attention -> dense -> dropout -> + x -> layer norm -> dense, GELU, dense -> dropout -> + -> layer norm

What differs from the library's forward, to the same result:
- after the attention of the last layer only the places asked for are carried on: 15% of them in masked language modelling;
- a batch without padding has no attention mask, and takes the kernel that needs none; attention may keep to documents (`documents`);
- the gradient of tied embeddings reaches the parameter once (`loss.TiedGradient`);
- masks of dropout are a function of (seed, step, row) (`dropout`); on a GPU those of the attention's probabilities are drawn by the fused kernel instead.

Each submodule is called as a module, so that ZeRO-3 gathers its parameters. Shapes: B rows, T tokens, D width, H heads, K width of a head, M places asked for.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.model.attention import Sight, attend
from pipeline.model.documents import Within
from pipeline.model.dropout import RowDropout
from pipeline.model.loss import TiedGradient


class _TiedLookup(torch.autograd.Function):
    """Rows of the embeddings; its backward pass adds to the gradient that the output layer left, see `TiedGradient`."""

    @staticmethod
    def forward(ctx: Any, weight_VD: torch.Tensor, ids_BT: torch.Tensor, tied: TiedGradient, padding: int) -> torch.Tensor:
        ctx.save_for_backward(ids_BT)
        ctx.about = (tied, padding, weight_VD.shape, weight_VD.dtype)
        return functional.embedding(ids_BT, weight_VD)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (ids_BT,) = ctx.saved_tensors
        tied, padding, shape, dtype = ctx.about
        grad_BTD = grad_outputs[0]
        grad_VD, tied.formed = tied.formed, None
        if grad_VD is None:
            grad_VD = torch.zeros(shape, dtype=torch.float32, device=grad_BTD.device)
        real = ids_BT.flatten() != padding
        grad_VD.index_add_(0, ids_BT.flatten()[real], grad_BTD.flatten(0, 1)[real].to(grad_VD.dtype))
        return grad_VD.to(dtype), None, None, None


class TiedEmbedding(nn.Module):
    """The lookup of embeddings that the output layer shares."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight
        self.padding = -1 if embedding.padding_idx is None else embedding.padding_idx

    def forward(self, ids_BT: torch.Tensor, tied: TiedGradient) -> torch.Tensor:
        """Vectors [B, T, D]."""
        return _TiedLookup.apply(self.weight, ids_BT, tied, self.padding)


def encode(
    encoder: Any,
    lookup: TiedEmbedding,
    tied: TiedGradient,
    ids_BT: torch.Tensor,
    sight: Sight,
    positions_BT: torch.Tensor,
    dropout: RowDropout,
    places_M: torch.Tensor | None = None,
    recompute: bool = False,
    compiled: bool = False,
) -> torch.Tensor:
    """Last hidden states of an `XLMRobertaModel`.

    Args:
        encoder: the library's module, whose parameters are used.
        lookup: of the word embeddings.
        tied: on its way between output and lookup.
        ids_BT: int64.
        sight: see `attend`; a mask [B, 1, 1, T] will do.
        positions_BT: int64 rows of the position table.
        dropout: the masks of this pass.
        places_M: flat places b·T + t that are wanted.
        recompute: keep the input of each layer only, and compute the layer again in the backward pass (activation checkpointing, Chen et al. 2016).
        compiled: layers are compiled by torch (inductor) where nothing is dropped and attention is torch's own.

    Returns:
        [B, T, D], or [M, D] at `places_M`.
    """
    embeddings = encoder.embeddings
    types_BT = torch.zeros_like(ids_BT)
    x_BTD = lookup(ids_BT, tied) + embeddings.token_type_embeddings(types_BT) + embeddings.position_embeddings(positions_BT)
    x_BTD = embeddings.LayerNorm(x_BTD)
    kind = x_BTD.device.type
    if torch.is_autocast_enabled(kind):
        x_BTD = x_BTD.to(torch.get_autocast_dtype(kind))  # else the residuals of all layers would be carried in float32
    if dropout.drops:
        x_BTD = x_BTD * dropout.keep(dropout.site(), tuple(x_BTD.shape), x_BTD.device, x_BTD.dtype) * dropout.scale
    layers = encoder.encoder.layer
    compute: Any = _layer
    if compiled and not dropout.drops and not (isinstance(sight, Within) and sight.has_kernel(x_BTD)):
        compute, sight = _compiled(), sight.mask if isinstance(sight, Within) else sight
    for number, layer in enumerate(layers):
        wanted_M = places_M if number == len(layers) - 1 else None
        if recompute and torch.is_grad_enabled():
            again = partial(_layer_from, compute, dropout.sites, layer, sight=sight, dropout=dropout, places_M=wanted_M)
            # Our dropout follows from its site, so no generator's state need be kept.
            x_BTD = checkpoint(again, x_BTD, use_reentrant=False, preserve_rng_state=x_BTD.is_cuda and dropout.drops)
        else:
            x_BTD = compute(layer, x_BTD, sight, dropout, wanted_M)
    return x_BTD


_GRAPHS = 1024
"""Of a layer at most: lengths up to 512 in steps of 8, with a mask or none, at all places or some, with a gradient or none."""


@cache
def _compiled() -> Any:
    """A layer that drops nothing, compiled once for all layers of a process: their parameters are arguments of the graph."""
    # A graph for each length and each way of being called; past torch's limit of 8 it would compute as if not compiled, and a resumed run other steps so than the first.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = _GRAPHS
    graph = torch.compile(_undropped, dynamic=False)

    def compute(layer: Any, x_BTD: torch.Tensor, sight: torch.Tensor | None, dropout: RowDropout, places_M: torch.Tensor | None) -> Any:
        return graph(layer, x_BTD, sight, places_M)

    return compute


def _undropped(layer: Any, x_BTD: torch.Tensor, sight: torch.Tensor | None, places_M: torch.Tensor | None) -> torch.Tensor:
    return _layer(layer, x_BTD, sight, RowDropout(None, 0.0), places_M)


def _layer_from(
    compute: Any, site: int, layer: Any, x_BTD: torch.Tensor, *, sight: Sight, dropout: RowDropout, places_M: torch.Tensor | None
) -> torch.Tensor:
    """A layer whose first dropout has the site after `site`, also when it is computed again."""
    dropout.sites = site
    found: torch.Tensor = compute(layer, x_BTD, sight, dropout, places_M)
    return found


def _layer(layer: Any, x_BTD: torch.Tensor, sight: Sight, dropout: RowDropout, places_M: torch.Tensor | None) -> torch.Tensor:
    attention = layer.attention.self
    batch, length, _ = x_BTD.shape
    shape = (batch, length, attention.num_attention_heads, attention.attention_head_size)
    query, key, value = (linear(x_BTD).view(shape).transpose(1, 2) for linear in (attention.query, attention.key, attention.value))
    context = attend(query, key, value, sight, dropout).transpose(1, 2).reshape(batch, length, -1)
    if places_M is not None:
        context, x_BTD = (each.flatten(0, 1).index_select(0, places_M) for each in (context, x_BTD))
    full = (batch, length)
    output = layer.attention.output
    x_BTD = output.LayerNorm(_add(x_BTD, output.dense(context), dropout, full, places_M))
    inner = functional.gelu(layer.intermediate.dense(x_BTD))
    return layer.output.LayerNorm(_add(x_BTD, layer.output.dense(inner), dropout, full, places_M))


def _add(x: torch.Tensor, added: torch.Tensor, dropout: RowDropout, full: tuple[int, int], places_M: torch.Tensor | None) -> torch.Tensor:
    """x + dropout(added); masks are those of the whole rows, whichever places are carried on."""
    if not dropout.drops:
        return x + added
    keep = dropout.keep(dropout.site(), (*full, added.shape[-1]), added.device, added.dtype)
    if places_M is not None:
        keep = keep.flatten(0, 1).index_select(0, places_M)
    return torch.addcmul(x, added, keep, value=dropout.scale)
