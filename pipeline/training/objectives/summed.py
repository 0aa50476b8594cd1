"""The summed loss of a micro-batch of any objective, told apart by what the batch holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from pipeline.model.masked_lm import masked_lm_loss
from pipeline.training.objectives.contrast import contrast_loss
from pipeline.training.objectives.next_sentence import next_loss


def pretraining_loss(module: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Loss sum of a `MaskedLM`, under an engine or not, for a batch of any objective's feed; see `pipeline.training.contract.LossFn`."""
    if "next_B" in batch:
        return next_loss(module, batch)
    return contrast_loss(module, batch) if "gradients_BD" in batch else masked_lm_loss(module, batch)
