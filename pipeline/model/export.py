"""From a trained module to a Hugging Face directory: `config.json` and `model.safetensors`, float32.

    weights (from a checkpoint) -> restore_weights(module) -> export_huggingface(module, directory)

The directory is opened by the library's own `AutoModel…` classes with no code of ours. The tokenizer's files
are not written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import StageError


def huggingface_model(module: nn.Module) -> PreTrainedModel:
    """The Hugging Face model inside a training module, or the module itself if it is one.

    Raises:
        StageError: there is none.
    """
    model = getattr(module, "model", module)
    if isinstance(module, PreTrainedModel):
        return module
    if not isinstance(model, PreTrainedModel):
        raise StageError(f"export: {type(module).__name__} holds no Hugging Face model; give a MaskedLM or SequenceClassifier")
    return model


@torch.no_grad()
def restore_weights(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy `weights` into the trainable parameters of `module`, by name; tied parameters count once.

    Raises:
        StageError: a parameter has no weight, a weight no parameter, or the shapes differ.
    """
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    for name in sorted(parameters.keys() | weights.keys()):
        if name not in parameters or name not in weights or parameters[name].shape != weights[name].shape:
            model_shape = tuple(parameters[name].shape) if name in parameters else "none"
            found_shape = tuple(weights[name].shape) if name in weights else "none"
            raise StageError(
                f"export: {name} has shape {model_shape} in the model and {found_shape} in the checkpoint; "
                "build the model it was trained as"
            )
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


def without_heads(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a module that had a head of its own objective beside it (`objectives.next_sentence`), without the head's."""
    prefix = "trained."
    if not any(name.startswith(prefix) for name in weights):
        return dict(weights)
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def export_huggingface(module: nn.Module, directory: Path) -> None:
    """Write `config.json` and one `model.safetensors`, in float32, tied weights once, to `directory`, made if missing.

    Raises:
        StageError: `module` holds no Hugging Face model.
    """
    model = huggingface_model(module)
    directory.mkdir(parents=True, exist_ok=True)
    was = next(model.parameters()).dtype
    if was != torch.float32:
        raise StageError(f"export: weights are {was}; restore the float32 ones from a checkpoint first")
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(directory, max_shard_size="1000GB")
