"""From a size to a model with weights: masked language models, classifiers, untrained twins.

    (architecture, size, vocab_size, max_length) -> configuration -> random weights from `seed` -> ...ForMaskedLM -> module that training runs
    exported directory             -> its config.json  -> its weights, a new head    -> ...ForSequenceClassification
    exported directory             -> its config.json  -> random weights from `seed` -> the class that was exported

The random weights depend on the seed alone: the generator is forked, always that of the CPU, and neither the
rank nor the number of threads enters. Weights are read from safetensors only, never from a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from pipeline.errors import ConfigError, IntegrityError, MissingSourceError
from pipeline.model.architectures import KINDS, architecture_of, configuration_of, set_dropout
from pipeline.model.language_embeddings import with_languages
from pipeline.model.library_lm import LibraryLM
from pipeline.model.masked_lm import MaskedLM, TrainingLM
from pipeline.model.sizes import ModelSize

_NOT_OF_THE_MODEL = ("_name_or_path", "name_or_path", "transformers_version", "id2label", "label2id")


def build_masked_lm(
    size: ModelSize, vocab_size: int, *, seed: int, dropout: float, max_length: int, architecture: str = "xlm-r",
    languages: Sequence[str] = (),
) -> PreTrainedModel:  # fmt: skip
    """A masked language model in float32 on the CPU, with weights drawn from `seed` as its architecture draws them (XLM-R: normal, σ = 0.02).

    languages: those that get a language embedding; none makes none.

    Raises:
        ConfigError: see `configuration_of` and `with_languages`.
    """
    config = configuration_of(architecture, size, vocab_size, dropout=dropout, max_length=max_length)
    return model_from(with_languages(config, languages) if languages else config, seed)


def model_from(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A masked language model of this configuration, as `build_masked_lm`."""
    kind = next(kind.model for kind in KINDS.values() if kind.model.config_class is type(config))
    attention = "sdpa" if kind._supports_sdpa else "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = kind._from_config(config, attn_implementation=attention, dtype=torch.float32)
    model.train()
    return model


def plain_configuration(config: PreTrainedConfig) -> dict[str, Any]:
    """A configuration as JSON holds it, with nothing of the place it was read from; `model_from_plain` takes it."""
    plain: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in sorted(plain.items()) if name not in _NOT_OF_THE_MODEL}


def model_from_plain(plain: dict[str, Any], seed: int) -> PreTrainedModel:
    """A masked language model from `plain_configuration`, as `model_from`."""
    found = next(kind.model.config_class for kind in KINDS.values() if kind.model.config_class.model_type == plain["model_type"])
    return model_from(found.from_dict(plain), seed)


def training_module(model: PreTrainedModel, *, recompute: bool = False, compiled: bool = False) -> TrainingLM:
    """What training runs over a masked language model: a forward pass of our own for XLM-R, else the library's.

    Raises:
        ConfigError: see `LibraryLM`; or its forward pass, which is the library's, is to be compiled.
    """
    if architecture_of(model) == "xlm-r":
        return MaskedLM(model, recompute=recompute, compiled=compiled)
    if compiled:
        raise ConfigError(
            f"compile: layers of {architecture_of(model)} are the library's and are not compiled; leave it out or choose xlm-r"
        )
    return LibraryLM(model, recompute=recompute)


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
    set_dropout(config, dropout, head=True)
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
