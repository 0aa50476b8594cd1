"""Useful floating-point operations of a run's steps, and what the rank's device could do: tokens a second alone do not say whether a model is trained well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.devices import device_of
from pipeline.model.flops import training_flops
from pipeline.model.sizes import ModelSize
from pipeline.training.contract import Meter
from pipeline.training.engine import Gang, training_device
from pipeline.training.precision import resolve_precision, time_matmul
from stages.pretrain.parts import parts_of

if TYPE_CHECKING:
    from stages.pretrain import Config

_SIDE = 1024


def meter_of(config: Config, size: ModelSize, architecture: str, vocab_size: int, gang: Gang) -> Meter:
    """What counts the operations of this run, and what one rank's device reaches at most."""
    alone = next(iter(parts_of(config)[0].objectives))
    parts = parts_of(config)

    def flops(phase: int, objective: str | None, tokens: float, squares: float, weight: float) -> float:
        if (objective or alone) == "nsp":
            return training_flops(size, vocab_size, tokens=tokens, squares=squares, predicted=None, architecture=architecture)
        if (objective or alone) == "contrast":
            # Of the embeddings alone nothing worth counting is computed.
            return (
                0.0
                if parts[phase].on_embeddings
                else training_flops(size, vocab_size, tokens=tokens, squares=squares, predicted=None, architecture=architecture)
            )
        return training_flops(size, vocab_size, tokens=tokens, squares=squares, predicted=weight, architecture=architecture)

    return Meter(flops, _peak(config, gang))


def _peak(config: Config, gang: Gang) -> float:
    """Of a GPU as its maker says; of a CPU as a product of two matrices shows, on rank 0, which alone writes records. 0 for a GPU that is not known."""
    if gang.rank:
        return 0.0
    device = training_device(gang)
    precision = resolve_precision(config.precision, device)
    if device.type == "cuda":
        known = device_of(torch.cuda.get_device_name(device))
        return 0.0 if known is None else known.peak.get(precision, 0.0)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    return 2.0 * _SIDE**3 / time_matmul(dtype, _SIDE, 3)
