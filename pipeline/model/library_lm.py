"""Masked language models whose forward pass is the library's own, under the losses and objectives of this program: XLM, ModernBERT, EuroBERT.

    input_ids_BT -> word vectors, by the lookup that is tied to the output -> the library's encoder -> hidden_BTD
    masked_index_M picks rows -> what leads to the output -> float32 cross-entropy over the vocabulary at these places alone

As `masked_lm.MaskedLM`, which has a forward pass of its own for XLM-R. Two things are the library's: dropout, whose masks follow from (seed, step, rank, micro-batch) and so
from how the batch is cut; and attention, which works with masks and not with a kernel of variable lengths.

Shapes: B rows, T tokens a row, D width, M masked positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.model.architectures import KINDS, architecture_of
from pipeline.model.attention import Sight
from pipeline.model.documents import Within
from pipeline.model.dropout import RowDropout
from pipeline.model.encoder import TiedEmbedding
from pipeline.model.loss import TiedGradient, vocabulary_loss
from pipeline.model.masked_lm import TrainingLM
from pipeline.model.sizes import POSITION_OFFSET


class LibraryOutput(nn.Module):
    """The output layer and its loss, sharing the parameters of the library's; its bias may be missing."""

    def __init__(self, output: nn.Linear, is_tied: bool) -> None:
        super().__init__()
        self.weight = output.weight
        self.bias = output.bias
        self.is_tied = is_tied

    def forward(
        self, hidden_MD: torch.Tensor, labels_M: torch.Tensor, weights_M: torch.Tensor, tied: TiedGradient
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Σ weight · nll with gradient, and nll_M without; both float32."""
        bias_V = self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias
        return vocabulary_loss(hidden_MD, self.weight, bias_V, labels_M, weights_M, tied if self.is_tied else None)


class LibraryLM(TrainingLM):
    """A masked language model whose forward pass is the library's; it leaves keys of dropout aside."""

    needs_mask = True
    dropout = 0.0

    def __init__(self, model: PreTrainedModel, *, recompute: bool = False) -> None:
        """recompute: layers are computed again in the backward pass (activation checkpointing, Chen et al. 2016).

        Raises:
            ConfigError: the model is of no known architecture, or cannot compute layers again.
        """
        super().__init__(model)
        architecture = architecture_of(model)
        anatomy = KINDS[architecture].anatomy(model)
        if recompute:
            if not model.supports_gradient_checkpointing:
                raise ConfigError(f"activation_checkpointing: {architecture} has none in the library; leave it out or choose xlm-r")
            model.activation_checkpointing_enable({"use_reentrant": False})
        self.architecture = architecture
        self.sees_any, self.window = anatomy.sees_any, anatomy.window
        self.lookup = TiedEmbedding(model.get_input_embeddings())
        self.output = LibraryOutput(anatomy.output, bool(model.config.tie_word_embeddings))

    def hidden(
        self,
        ids_BT: torch.Tensor,
        sight: Sight,
        positions_BT: torch.Tensor,
        dropout: RowDropout,
        tied: TiedGradient,
        places_M: torch.Tensor | None = None,
        langs_BT: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `TrainingLM`."""
        positions_BT = (positions_BT - POSITION_OFFSET).clamp_min(0)
        encoder = KINDS[self.architecture].anatomy(self.model).encoder
        more = {} if langs_BT is None else {"langs": langs_BT}
        hidden_BTD: torch.Tensor = encoder(
            inputs_embeds=self.lookup(ids_BT, tied), attention_mask=self._mask(sight), position_ids=positions_BT, **more
        ).last_hidden_state  # fmt: skip
        return hidden_BTD if places_M is None else hidden_BTD.flatten(0, 1).index_select(0, places_M)

    def predict(
        self, hidden_MD: torch.Tensor, labels_M: torch.Tensor, weights_M: torch.Tensor, tied: TiedGradient
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TrainingLM`."""
        lead = KINDS[self.architecture].anatomy(self.model).lead
        found: tuple[torch.Tensor, torch.Tensor] = self.output(hidden_MD if lead is None else lead(hidden_MD), labels_M, weights_M, tied)
        return found

    def _mask(self, sight: Sight) -> Any:
        """What the library's encoder takes: [B, T], or [B, 1, T, T], of each kind of attention where there are two."""
        if sight is None:
            return None
        mask = sight.mask if isinstance(sight, Within) else sight
        if mask.shape[2] == 1:
            return mask[:, 0, 0]
        if not self.sees_any:
            raise ConfigError(f"model: {self.architecture} takes no mask between tokens: no clm, and attention: rows; or choose xlm-r")
        if self.window is None:
            return mask
        place_T = torch.arange(mask.shape[-1], device=mask.device)
        near_TT = (place_T[:, None] - place_T).abs() <= self.window
        return {"full_attention": mask, "sliding_attention": mask & near_TT}
