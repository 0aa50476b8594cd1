"""One vector a row: the mean over its words of the last hidden states, or of the word embeddings alone, or the hidden state of its first token.

    ids_BT -> encoder, or the lookup -> mean over tokens other than <s> and </s> -> vectors_BD, float32

Whatever is asked for, every parameter of the model takes part, most of them with a gradient of zero: a parameter without gradient would be left alone by AdamW at
ZeRO 0 and not at stages 1 to 3, which update flat groups, and at stage 3 would keep the gradient of the step before.

Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.errors import ConfigError
from pipeline.model.architectures import EOS_ID
from pipeline.model.attention import Sight
from pipeline.model.dropout import RowDropout
from pipeline.model.loss import TiedGradient

if TYPE_CHECKING:
    from pipeline.model.masked_lm import TrainingLM

PLACES = ("encoder", "embeddings", "first")


def pooled(
    module: TrainingLM,
    ids_BT: torch.Tensor,
    attention_BT: torch.Tensor,
    positions_BT: torch.Tensor,
    sight: Sight,
    dropout: RowDropout,
    on: str,
    langs_BT: torch.Tensor | None = None,
) -> torch.Tensor:
    """[B, D] float32, of rows with at least one word each. langs_BT: for modules that have language embeddings.

    Raises:
        ConfigError: `on` is neither "encoder" nor "embeddings".
    """
    tied = TiedGradient()
    words_BT1 = (attention_BT & (ids_BT > EOS_ID)).unsqueeze(-1).float()
    if on == "encoder":
        hidden_BTD = module.hidden(ids_BT, sight, positions_BT, dropout, tied, langs_BT=langs_BT)
        vectors_BTD, others = hidden_BTD, torch.zeros((), device=ids_BT.device)
    elif on == "first":
        hidden_BTD = module.hidden(ids_BT, sight, positions_BT, dropout, tied, langs_BT=langs_BT)
        vectors_BTD, others = hidden_BTD, torch.zeros((), device=ids_BT.device)
        words_BT1 = torch.zeros_like(words_BT1).index_fill_(1, torch.zeros(1, dtype=torch.int64, device=ids_BT.device), 1.0)
    elif on == "embeddings":
        vectors_BTD = module.lookup(ids_BT, TiedGradient())
        # Of one place, so that the layers have a gradient at next to no cost.
        lang_11 = None if langs_BT is None else langs_BT[:1, :1]
        hidden_BTD = module.hidden(ids_BT[:1, :1], None, positions_BT[:1, :1], RowDropout(None, 0.0), tied, langs_BT=lang_11)
        others = (hidden_BTD * 0).sum().float()
    else:
        raise ConfigError(f"contrast: on is {on!r}; allowed: {', '.join(PLACES)}")
    vectors_BD = (vectors_BTD.float() * words_BT1).sum(1) / words_BT1.sum(1)
    none_M = ids_BT.flatten()[:0]
    nothing, _ = module.predict(hidden_BTD.flatten(0, 1)[:0], none_M, none_M.float(), tied)
    return vectors_BD + (nothing + others)
