"""The modules that training runs: a batch in, the summed loss out, vocabulary logits at masked positions only.

    input_ids_BT, attention_BT, positions_BT -> encoder -> hidden_BTD
    masked_index_M picks rows of hidden_(B·T)D -> dense, GELU, layer norm -> hidden_MD
    -> tied output embeddings, float32 cross-entropy against labels_M, weights_M -> Σ

At 512 tokens the logits of 250,002 ids are 67% of the forward work of XLM-R base when computed everywhere,
23% at the masked 15%. The number of masked positions M is fixed by the batch and padded with weight 0.

The output embeddings belong to a small module of their own, which holds the same two parameters as the
Hugging Face model: so ZeRO-3 gathers them for that module as for any other, tied or not.

Shapes: B rows, T tokens a row, D width, V vocabulary, M masked positions, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.model.attention import Sight
from pipeline.model.documents import Within
from pipeline.model.dropout import RowDropout
from pipeline.model.encoder import TiedEmbedding, encode
from pipeline.model.language_embeddings import langs_given
from pipeline.model.loss import TiedGradient, classification_loss, vocabulary_loss
from pipeline.model.pooling import pooled


class VocabularyOutput(nn.Module):
    """The output layer and its loss, sharing the parameters of the Hugging Face head."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(
        self, hidden_MD: torch.Tensor, labels_M: torch.Tensor, weights_M: torch.Tensor, tied: TiedGradient
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Σ weight · nll with gradient, and nll_M without; both float32."""
        return vocabulary_loss(hidden_MD, self.weight, self.bias, labels_M, weights_M, tied)


class TrainingLM(nn.Module):
    """A masked language model of the library whose forward takes a batch and gives the loss over its masked positions; of an architecture, a subclass.

    `model` is the Hugging Face model itself, for export; its parameters are this module's.
    """

    lookup: TiedEmbedding
    dropout: float
    """Probability of our own dropout; 0 where dropout is the library's."""
    needs_mask: bool
    """Whether attention is given a mask where no row has padding, too."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids_BT: torch.Tensor,
        attention_BT: torch.Tensor,
        positions_BT: torch.Tensor,
        masked_index_M: torch.Tensor,
        labels_M: torch.Tensor,
        weights_M: torch.Tensor,
        dropout_keys_B: torch.Tensor | None = None,
        is_full: bool = False,
        per_position: bool = False,
        is_causal: bool = False,
        pool: str | None = None,
        within: Within | None = None,
        langs_BT: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss of one micro-batch.

        Args:
            input_ids_BT: int64, masked already.
            attention_BT: bool, True for tokens.
            positions_BT: int64, 2 for the first token of a text, 1 for padding.
            masked_index_M: int64, flat into B·T, padded with 0.
            labels_M: int64, the ids that were masked.
            weights_M: float32, 0 for padding.
            dropout_keys_B: int64, 64 random bits a row from which its dropout follows; none drops nothing.
            is_full: no row has padding; said by whoever has the batch on the CPU, since asking a GPU would wait for it.
            per_position: give also the weight and the nats of each position.
            is_causal: each place sees itself and those before it only.
            within: each place sees its own document only; it says itself whether causally.
            langs_BT: int64, rows of the language embeddings, for models that have them.
            pool: "encoder" or "embeddings": the rows' vectors are asked for instead, see `pooling`; without masked positions.

        Returns:
            loss_sum, a float32 scalar; or (loss_sum, weight_sum, nll_M) where nll_M has no gradient; or vectors [B, D], float32.

        Raises:
            ConfigError: causal rows, documents or languages, and the architecture takes no such thing.
        """
        tied = TiedGradient()
        dropout = RowDropout(dropout_keys_B if self.training and self.dropout else None, self.dropout)
        sight: Sight = None if is_full and not self.needs_mask else attention_BT[:, None, None, :]
        if within is not None:
            sight = within
        elif is_causal:
            sight = causal_mask(attention_BT)
        if pool is not None:
            return pooled(self, input_ids_BT, attention_BT, positions_BT, sight, dropout, pool, langs_BT)
        hidden_MD = self.hidden(input_ids_BT, sight, positions_BT, dropout, tied, masked_index_M, langs_BT)
        loss_sum, nll_M = self.predict(hidden_MD, labels_M, weights_M, tied)
        if per_position:
            return loss_sum, weights_M.sum(), nll_M
        return loss_sum

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
        """Last hidden states [B, T, D], or [M, D] at flat places."""
        raise NotImplementedError

    def predict(
        self, hidden_MD: torch.Tensor, labels_M: torch.Tensor, weights_M: torch.Tensor, tied: TiedGradient
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Σ weight · nll of predictions from hidden states, with gradient, and nll_M, without."""
        raise NotImplementedError


class MaskedLM(TrainingLM):
    """An `XLMRobertaForMaskedLM` with a forward pass of our own, `encoder.encode`."""

    needs_mask = False

    def __init__(self, model: PreTrainedModel, *, recompute: bool = False, compiled: bool = False) -> None:
        """recompute: layers are computed again in the backward pass; compiled: by torch's compiler; see `encoder.encode`."""
        super().__init__(model)
        self.compiled = compiled
        self.recompute = recompute
        self.lookup = TiedEmbedding(model.roberta.embeddings.word_embeddings)
        self.output = VocabularyOutput(model.roberta.embeddings.word_embeddings.weight, model.lm_head.bias)
        self.dropout = float(model.config.hidden_dropout_prob)

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
        """See `TrainingLM` and `encoder.encode`."""
        if langs_BT is not None:
            raise ConfigError("language_embeddings: xlm-r has none; leave them out or choose xlm")
        return encode(
            self.model.roberta, self.lookup, tied, ids_BT, sight, positions_BT, dropout, places_M, recompute=self.recompute,
            compiled=self.compiled,
        )  # fmt: skip

    def predict(
        self, hidden_MD: torch.Tensor, labels_M: torch.Tensor, weights_M: torch.Tensor, tied: TiedGradient
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TrainingLM`."""
        head = self.model.lm_head
        found: tuple[torch.Tensor, torch.Tensor] = self.output(
            head.layer_norm(functional.gelu(head.dense(hidden_MD))), labels_M, weights_M, tied
        )
        return found


class SequenceClassifier(nn.Module):
    """Any Hugging Face sequence classifier whose forward takes a batch and gives the summed loss.

    Position ids are left to the model, since other encoders than XLM-R count otherwise; XLM-R's own start at 2.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids_BT: torch.Tensor,
        attention_BT: torch.Tensor,
        labels_B: torch.Tensor,
        weights_B: torch.Tensor,
        langs_BT: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Σ weights_B · cross-entropy, a float32 scalar; ids, labels and rows of the language embeddings int64, attention bool, weights float32."""
        more = {} if langs_BT is None else {"langs": langs_BT}
        logits_BK = self.model(input_ids=input_ids_BT, attention_mask=attention_BT, **more).logits
        return classification_loss(logits_BK, labels_B, weights_B)


def causal_mask(attention_BT: torch.Tensor) -> torch.Tensor:
    """[B, 1, T, T], True where a place (second last) may see another (last): tokens at or before it. Its first token every place sees."""
    places = attention_BT.shape[1]
    below_TT = torch.ones(places, places, dtype=torch.bool, device=attention_BT.device).tril()
    return attention_BT[:, None, None, :] & below_TT


def masked_lm_loss(module: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Loss sum of a `MaskedLM`, under an engine or not, for a batch of the pretraining feed; other fields are left aside."""
    fields = ("input_ids_BT", "attention_BT", "positions_BT", "masked_index_M", "labels_M", "weights_M")
    is_full = bool(batch["is_full"]) if "is_full" in batch else False
    is_causal = bool(batch["is_causal"]) if "is_causal" in batch else False
    given: dict[str, Any] = {name: batch[name] for name in fields}
    return module(
        **given,
        dropout_keys_B=batch.get("dropout_keys_B"),
        is_full=is_full,
        is_causal=is_causal,
        within=within_of(batch),
        **langs_given(batch),
    )


def within_of(batch: Mapping[str, torch.Tensor]) -> Within | None:
    """What the tokens of a batch see where its feed keeps them to their documents."""
    if "within_documents" not in batch or not bool(batch["within_documents"]):
        return None
    longest = int(batch["longest_run"]) if "longest_run" in batch else 0
    return Within(batch["segments_BT"], bool(batch["is_causal"]), batch.get("run_offsets_N1"), longest)


def classifier_loss(module: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Loss sum of a `SequenceClassifier`, under an engine or not, for a batch of the fine-tuning feed."""
    fields = ("input_ids_BT", "attention_BT", "labels_B", "weights_B")
    return module(**{name: batch[name] for name in fields}, **langs_given(batch))
