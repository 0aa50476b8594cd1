"""What goes into a training and what comes out of it: settings, the loss, records, the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

Record = dict[str, float]
"""One step: step, loss (again as loss/OBJECTIVE where the feed tells), gradient_norm, learning_rate, tokens, tokens_per_second, seconds, fill (tokens over places);
skipped_steps where a part of the data is left out; loss_scale in float16; with a meter flops_per_second of all ranks and mfu, their share of the most that the devices compute; every `log_every` steps skew (the slowest rank's computing time over the mean, since the last such record) memory_bytes (peak, of the fullest rank) and system/node-N/METRIC (see `watching.Machine`);
where evaluated tokens/LANGUAGE so far and evaluation's own keys."""

LossFn = Callable[[nn.Module, Mapping[str, torch.Tensor]], torch.Tensor]
"""(module, batch) -> Σ weight · nll, a float32 scalar."""


@dataclass(frozen=True)
class TrainSettings:
    """How to train. What is not recipe (see DESIGN, identity) may change on resume: micro_batch, zero, offload, threads."""

    steps: int
    """Updates of the whole run."""
    micro_batch: int
    """Sequences per rank and forward pass."""
    learning_rate: float
    """Peak rate."""
    warmup_steps: int = 0
    """Updates over which the rate climbs."""
    schedule: str = "linear"
    """A key of `schedule.SCHEDULES`."""
    optimizer: str = "adamw"
    """A name of `optimizers.KINDS`."""
    momentum: float = 0.95
    """Muon's."""
    weight_decay: float = 0.01
    """Decoupled; none for biases and layer norms."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of Adam's moments."""
    eps: float = 1e-6
    """Adam's ε."""
    clip: float = 1.0
    """Largest gradient norm; 0 for no clipping."""
    zero: int = 0
    """DeepSpeed ZeRO stage, 0 to 3."""
    offload: bool = False
    """Optimizer state on the CPU, at stages 1 to 3."""
    precision: str = "auto"
    """"auto", "fp32", "bf16" or "fp16"; what it was resolved to at step 0 is kept on resume."""
    seed: int = 0
    """Of dropout; the data have their own."""
    log_every: int = 10
    """Steps between calls of `watch`."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: only at the end."""
    evaluate_every: int = 0
    """Steps between evaluations; 0: only at the end, if there is an `evaluate`."""
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """DeepSpeed's own settings, where this program sets none."""
    threads: int = 0
    """CPU threads of this rank; 0: as they are."""


@dataclass(frozen=True)
class Meter:
    """What tells useful work from time."""

    flops: Callable[[int, str | None, float, float, float], float]
    """(number of the phase, objective, tokens, Σ length² of texts, weight) of a step over all ranks -> its useful floating-point operations."""
    peak: float
    """Operations a second that one rank's device computes at most, in the format of training; 0 where that is not known."""


@dataclass(frozen=True)
class TrainOutcome:
    """What a call of `train` came to; the same on every rank."""

    steps: int
    """Updates made since step 0, those before a resume counted."""
    final_loss: float
    """Of the last step, nats per weight; NaN if this call made none."""
    tokens_by_language: dict[int, int]
    """Tokens trained on since step 0, padding not counted, by language id."""
    seconds: float
    """Of this call, from the first batch to the end."""
    interrupted: bool
    """Preempted before the last step; a checkpoint of the place was saved."""
    precision: str
    """"fp32", "bf16" or "fp16"."""
    accumulation: int
    """Micro-batches per rank and step."""
    world_size: int
    """Ranks."""
    spiked: str | None = None
    """Why the step after `steps` was a spike; nothing of it was saved."""
