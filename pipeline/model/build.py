"""From a size to a model with weights: XLM-R-shaped masked language models, classifiers, untrained twins.

    (size, vocab_size, max_length) -> XLMRobertaConfig -> random weights from `seed` -> XLMRobertaForMaskedLM
    exported directory             -> its config.json  -> its weights, a new head    -> ...ForSequenceClassification
    exported directory             -> its config.json  -> random weights from `seed` -> the class that was exported

The random weights depend on the seed alone: the generator is forked, always that of the CPU, and neither the
rank nor the number of threads enters. Weights are read from safetensors only, never from a pickle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)
from transformers.utils import logging as transformers_logging

from pipeline.errors import ConfigError, IntegrityError, MissingSourceError
from pipeline.model.sizes import POSITION_OFFSET, ModelSize

BOS_ID, PAD_ID, EOS_ID = 0, 1, 2
LAYER_NORM_EPS = 1e-5  # XLM-R's; the library's default for this class is 1e-12


def masked_lm_config(size: ModelSize, vocab_size: int, *, dropout: float, max_length: int) -> XLMRobertaConfig:
    """The configuration of an XLM-R of this size; every value that differs from the library's default is said.

    Args:
        size: layers and widths.
        vocab_size: ids, `<mask>` counted.
        dropout: probability for hidden states and for attention, in [0, 1).
        max_length: longest row in tokens; the position table has two rows more.

    Raises:
        ConfigError: the heads do not divide the width, or a number is out of range.
    """
    if size.hidden % size.heads:
        raise ConfigError(f"model: {size.heads} heads do not divide a width of {size.hidden}; choose a divisor")
    if not 0.0 <= dropout < 1.0:
        raise ConfigError(f"model: dropout is {dropout}; allowed is 0 ≤ dropout < 1")
    if vocab_size < 5 or max_length < 1:
        raise ConfigError(f"model: {vocab_size} ids and rows of {max_length} tokens; at least 5 ids and 1 token are needed")
    return XLMRobertaConfig(
        vocab_size=vocab_size,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.intermediate,
        hidden_act="gelu",
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=max_length + POSITION_OFFSET,
        type_vocab_size=1,
        initializer_range=0.02,
        layer_norm_eps=LAYER_NORM_EPS,
        bos_token_id=BOS_ID,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        tie_word_embeddings=True,
        use_cache=False,
    )


def build_masked_lm(size: ModelSize, vocab_size: int, *, seed: int, dropout: float, max_length: int) -> PreTrainedModel:
    """An `XLMRobertaForMaskedLM` in float32 on the CPU, with weights drawn from `seed` (normal, σ = 0.02).

    Raises:
        ConfigError: see `masked_lm_config`.
    """
    config = masked_lm_config(size, vocab_size, dropout=dropout, max_length=max_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = XLMRobertaForMaskedLM._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    model.train()
    return model


def build_classifier(base_dir: Path, labels: list[str], *, seed: int, dropout: float) -> PreTrainedModel:
    """An encoder from an exported directory under a new classification head drawn from `seed`.

    Args:
        base_dir: any Hugging Face encoder directory with safetensors weights.
        labels: names of the classes, in the order of their ids.
        seed: of the new head.
        dropout: probability for hidden states, attention and head.

    Raises:
        MissingSourceError: no such directory or no `config.json` in it.
        ConfigError: fewer than two labels, or one twice.
        IntegrityError: the directory lacks weights of the encoder.
    """
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise ConfigError(f"classifier: labels are {labels}; at least two different ones are needed")
    _require_export(base_dir)
    config = AutoConfig.from_pretrained(
        base_dir,
        local_files_only=True,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type="single_label_classification",
    )
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        if hasattr(config, name):
            setattr(config, name, dropout)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it would report the new head at length; what matters is checked below
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                base_dir, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    finally:
        transformers_logging.set_verbosity(verbosity)
    encoder = f"{model.base_model_prefix}."
    missing = sorted(name for name in report["missing_keys"] if name.startswith(encoder) and ".pooler." not in name)
    if missing:
        raise IntegrityError(f"{base_dir}: model.safetensors has no {missing[0]} ({len(missing)} missing in all); export the encoder anew")
    model.train()
    return model


def untrained_twin(directory: Path, seed: int) -> PreTrainedModel:
    """A model of the exported one's class and configuration, float32, whose weights are random: the baseline.

    Raises:
        MissingSourceError: no such directory or no `config.json` in it.
    """
    _require_export(directory)
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    classifier = any(name.endswith("ForSequenceClassification") for name in config.architectures or [])
    kind: Any = AutoModelForSequenceClassification if classifier else AutoModelForMaskedLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(config, dtype=torch.float32)
    model.train()
    return model


def _require_export(directory: Path) -> None:
    if not (directory / "config.json").is_file():
        raise MissingSourceError(f"{directory}: no config.json there; give the directory of an exported Hugging Face encoder")
