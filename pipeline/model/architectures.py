"""Kinds of encoder, each a class of the library, so that weights go to and fro: XLM-R, XLM, ModernBERT, EuroBERT.

    (kind, size, ids, rows) -> the library's configuration -> its masked language model
    that model              -> `Anatomy`: where its encoder, its output and what leads to it are

Ids of special tokens are this program's everywhere: <s> 0, <pad> 1, </s> 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import (
    EuroBertConfig,
    EuroBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    XLMConfig,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMWithLMHeadModel,
)

from pipeline.errors import ConfigError
from pipeline.model.sizes import ARCHITECTURES, POSITION_OFFSET, ModelSize

BOS_ID, PAD_ID, EOS_ID = 0, 1, 2
_SPECIAL = {"bos_token_id": BOS_ID, "pad_token_id": PAD_ID, "eos_token_id": EOS_ID}
_DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "embedding_dropout", "mlp_dropout",
)  # fmt: skip
_DROPOUTS_OF_HEAD = ("classifier_dropout", "summary_first_dropout", "summary_last_dropout")
LAYER_NORM_EPS = 1e-5  # XLM-R's; the library's default for this class is 1e-12


@dataclass(frozen=True)
class Anatomy:
    """The parts of a masked language model of the library."""

    encoder: nn.Module
    """Takes `inputs_embeds`, `attention_mask` and `position_ids`."""
    output: nn.Linear
    """Scores the vocabulary."""
    lead: nn.Module | None
    """What stands between the encoder and the output."""
    sees_any: bool
    """Whether attention takes a mask [B, 1, T, T], which causal rows and documents need."""
    window: int | None = None
    """Places to either side that layers of local attention see."""


@dataclass(frozen=True)
class Kind:
    """An architecture."""

    configuration: Callable[[ModelSize, int, float, int], PreTrainedConfig]
    """(size, ids, dropout, longest row in tokens) -> the library's configuration."""
    model: type[PreTrainedModel]
    anatomy: Callable[[Any], Anatomy]


def _shape(size: ModelSize, vocab_size: int) -> dict[str, Any]:
    """What most configurations of the library call alike."""
    return {
        "vocab_size": vocab_size, "hidden_size": size.hidden, "num_hidden_layers": size.layers, "num_attention_heads": size.heads,
        "intermediate_size": size.intermediate, **_SPECIAL,
    }  # fmt: skip


def _xlm_r(size: ModelSize, vocab_size: int, dropout: float, max_length: int) -> PreTrainedConfig:
    return XLMRobertaConfig(
        **_shape(size, vocab_size),
        hidden_act="gelu",
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=max_length + POSITION_OFFSET,
        type_vocab_size=1,
        initializer_range=0.02,
        layer_norm_eps=LAYER_NORM_EPS,
        tie_word_embeddings=True,
        use_cache=False,
    )


def _xlm(size: ModelSize, vocab_size: int, dropout: float, max_length: int) -> PreTrainedConfig:
    """Without language embeddings, as XLM-100 (MLM); `language_embeddings.with_languages` adds them."""
    if size.intermediate != 4 * size.hidden:
        raise ConfigError(
            f"model: XLM's inner width is four times its width, and this size has {size.intermediate} and {size.hidden}; choose another size"
        )
    return XLMConfig(
        vocab_size=vocab_size,
        emb_dim=size.hidden,
        n_layers=size.layers,
        n_heads=size.heads,
        dropout=dropout,
        attention_dropout=dropout,
        summary_first_dropout=dropout,
        max_position_embeddings=max_length,
        embed_init_std=size.hidden**-0.5,
        n_langs=1,
        use_lang_emb=False,
        mask_index=vocab_size - 1,
        mask_token_id=vocab_size - 1,
        **_SPECIAL,
    )


def _modernbert(size: ModelSize, vocab_size: int, dropout: float, max_length: int) -> PreTrainedConfig:
    return ModernBertConfig(
        **_shape(size, vocab_size),
        max_position_embeddings=max_length,
        attention_dropout=dropout,
        embedding_dropout=dropout,
        mlp_dropout=dropout,
        cls_token_id=BOS_ID,
        sep_token_id=EOS_ID,
    )


def _eurobert(size: ModelSize, vocab_size: int, dropout: float, max_length: int) -> PreTrainedConfig:
    """Departure from Boizard et al. (2025): tied embeddings; and dropout, which there is none of, is of the attention alone."""
    return EuroBertConfig(
        **_shape(size, vocab_size),
        max_position_embeddings=max_length,
        attention_dropout=dropout,
        tie_word_embeddings=True,
        mask_token_id=vocab_size - 1,
        use_cache=False,
    )


KINDS: Mapping[str, Kind] = {
    "xlm-r": Kind(_xlm_r, XLMRobertaForMaskedLM, lambda m: Anatomy(m.roberta, m.lm_head.decoder, None, True)),
    "xlm": Kind(_xlm, XLMWithLMHeadModel, lambda m: Anatomy(m.transformer, m.pred_layer.proj, None, False)),
    "modernbert": Kind(
        _modernbert, ModernBertForMaskedLM, lambda m: Anatomy(m.model, m.decoder, m.head, True, int(m.config.sliding_window))
    ),
    "eurobert": Kind(_eurobert, EuroBertForMaskedLM, lambda m: Anatomy(m.model, m.lm_head, None, True)),
}
assert tuple(KINDS) == ARCHITECTURES


def configuration_of(architecture: str, size: ModelSize, vocab_size: int, *, dropout: float, max_length: int) -> PreTrainedConfig:
    """The library's configuration; every value that differs from its defaults is said.

    Args:
        architecture: one of `sizes.ARCHITECTURES`.
        size: layers and widths.
        vocab_size: ids, `<mask>` counted.
        dropout: probability for hidden states and for attention, in [0, 1).
        max_length: longest row in tokens; XLM-R's position table has two rows more.

    Raises:
        ConfigError: the heads do not divide the width, a number is out of range, or the architecture has no such shape.
    """
    if size.hidden % size.heads:
        raise ConfigError(f"model: {size.heads} heads do not divide a width of {size.hidden}; choose a divisor")
    if not 0.0 <= dropout < 1.0:
        raise ConfigError(f"model: dropout is {dropout}; allowed is 0 ≤ dropout < 1")
    if vocab_size < 5 or max_length < 1:
        raise ConfigError(f"model: {vocab_size} ids and rows of {max_length} tokens; at least 5 ids and 1 token are needed")
    return KINDS[architecture].configuration(size, vocab_size, dropout, max_length)


def architecture_of(model: Any) -> str:
    """The name of the architecture of a model of the library.

    Raises:
        ConfigError: it is none of those that can be trained.
    """
    for name, kind in KINDS.items():
        if isinstance(model, kind.model):
            return name
    known = ", ".join(kind.model.__name__ for kind in KINDS.values())
    raise ConfigError(f"model: {type(model).__name__} cannot be trained; known: {known}")


def size_of(config: Any) -> ModelSize:
    """The shape that a configuration of the library describes."""
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return ModelSize(
        config.num_hidden_layers, config.hidden_size, config.num_attention_heads, inner, config.max_position_embeddings, config.vocab_size
    )


def set_dropout(config: PreTrainedConfig, dropout: float, *, head: bool = False) -> None:
    """One probability wherever the configuration of an architecture has one, for hidden states and attention; head: for a classification head too."""
    for name in _DROPOUTS + (_DROPOUTS_OF_HEAD if head else ()):
        if hasattr(config, name):
            setattr(config, name, dropout)
