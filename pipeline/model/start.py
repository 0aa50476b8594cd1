"""A model to go on training: from a Hugging Face directory, with the rows of another vocabulary where there is one.

    directory: config.json, *.safetensors -> the library's model, float32 -> rows of the vocabulary of this run (`rows`) -> dropout of this run

Weights are read from safetensors only. Whether the ids mean the same pieces is for whoever knows both vocabularies to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from pipeline.errors import ConfigError, IntegrityError
from pipeline.model.architectures import BOS_ID, EOS_ID, KINDS, PAD_ID, set_dropout
from pipeline.model.rows import with_rows


def started_model(
    directory: Path, vocab_size: int, *, rows: Sequence[Sequence[int]] | None, dropout: float, max_length: int
) -> PreTrainedModel:
    """The masked language model in `directory`, float32, on the CPU.

    Args:
        directory: `config.json` and safetensors.
        vocab_size: ids of this run.
        rows: old ids of each new id, where the vocabulary is another one.
        dropout: for hidden states and attention, wherever the architecture has it.
        max_length: longest row in tokens.

    Raises:
        ConfigError: the architecture cannot be trained, the ids are others, or its rows are shorter than those of this run.
        IntegrityError: weights are missing.
    """
    config: Any = AutoConfig.from_pretrained(directory, local_files_only=True)
    kind = next((kind.model for kind in KINDS.values() if kind.model.config_class is type(config)), None)
    if kind is None:
        known = ", ".join(kind.model.config_class.model_type for kind in KINDS.values())
        raise ConfigError(f"pretrain.start: a model of type {config.model_type!r} cannot be trained; known: {known}")
    set_dropout(config, dropout)
    attention = "sdpa" if kind._supports_sdpa else "eager"
    model: Any
    model, report = kind.from_pretrained(
        directory, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation=attention,
        output_loading_info=True,
    )  # fmt: skip
    missing = sorted(report["missing_keys"])
    if missing:
        raise IntegrityError(f"pretrain.start: the weights lack {missing[0]} ({len(missing)} in all); give a masked language model")
    longest = config.max_position_embeddings - (PAD_ID + 1 if config.model_type == "xlm-roberta" else 0)
    if max_length > longest:
        raise ConfigError(f"pretrain.start: the model reads {longest} tokens at most and rows have {max_length}; lower pack.length")
    if rows is not None:
        last = vocab_size - 1
        special = {
            "bos_token_id": BOS_ID, "cls_token_id": BOS_ID, "pad_token_id": PAD_ID, "eos_token_id": EOS_ID, "sep_token_id": EOS_ID,
            "mask_token_id": last, "mask_index": last,
        }  # fmt: skip
        model = with_rows(model, rows, special)
    if model.config.vocab_size != vocab_size:
        raise ConfigError(
            f"pretrain.start: the model has {model.config.vocab_size} ids and the vocabulary {vocab_size}; set vocabulary.start to the model's own tokenizer.json"
        )
    model.train()
    trained: PreTrainedModel = model
    return trained
