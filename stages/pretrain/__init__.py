"""pretrain: trains a masked language model of the XLM-R family on the packed rows, by DeepSpeed ranks that Ray Train starts together.

Recipe (in the key): model, objectives, steps, global batch in sequences, learning rate and schedule, sampling over languages, seed. How it is carried out (world
size, micro-batch, ZeRO stage, precision, offload) is recorded and may change on resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from pipeline.artifacts import CHECKPOINT, PACKING, TOKENS, VOCABULARY
from pipeline.config import Section, outside
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary

VERSION = 1
LIBRARIES = ("deepspeed", "torch", "transformers")
GRADE = Grade.TRAINING
GLOBALS = ("seed",)
INPUTS = {
    "tokens": Slot(TOKENS, "encode"),
    "packing": Slot(PACKING, "pack"),
    "vocabulary": Slot(VOCABULARY, "vocabulary"),
}
OUTPUT = {"checkpoint": CHECKPOINT}


class Config(Section):
    """Settings of pretrain."""

    model: str = "xlm-r-base"
    """Named size of the encoder; see pipeline/model/sizes.py."""
    objectives: Mapping[str, float] = Field(default_factory=lambda: {"mlm": 1.0})
    """Objectives and their weights."""
    steps: int = Field(100_000, ge=1)
    """Updates."""
    global_batch: int = Field(2_048, ge=1)
    """Sequences in a step, over all ranks."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate."""
    warmup: float = Field(0.06, ge=0, le=1)
    """Share of the steps over which the rate climbs."""
    schedule: Literal["linear", "cosine", "constant", "inverse_sqrt", "wsd"] = "linear"
    """Learning rate after warmup."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay; none for biases and layer norms."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Adam's decay rates."""
    eps: float = Field(1e-6, gt=0)
    """Adam's epsilon."""
    clip: float = Field(1.0, ge=0)
    """Largest gradient norm; 0 does not clip."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of hidden states and attention."""
    alpha: float = Field(0.3, ge=0, le=1)
    """Exponent of the sampling over languages (XLM-R 0.3)."""
    mask_rate: float = Field(0.15, gt=0, lt=1)
    """Share of tokens that is predicted."""
    micro_batch: int | None = outside(None, ge=1)
    """Sequences per rank and forward pass; none takes the largest divisor of a rank's share up to 16."""
    zero: Literal[0, 1, 2, 3] = outside(0)
    """DeepSpeed ZeRO stage."""
    offload: bool = outside(False)
    """Keep optimizer state on the CPU (ZeRO 1 to 3)."""
    precision: Literal["auto", "fp32", "bf16"] = outside("auto")
    """Arithmetic of the forward and backward pass; auto takes bf16 where a probe shows it faster."""
    deepspeed: Mapping[str, Any] = outside({})
    """Further DeepSpeed settings; what would hide ours is refused."""
    checkpoint_every: int = outside(1_000, ge=0)
    """Steps between checkpoints; 0 saves the last only."""
    keep: int = outside(2, ge=1)
    """Checkpoints kept while training."""
    evaluate_every: int = outside(0, ge=0)
    """Steps between evaluations on the held-out text; 0 evaluates at the end only."""
    log_every: int = outside(10, ge=1)
    """Steps between records handed on."""
    max_restarts: int = outside(3, ge=0)
    """Times the gang is started again after it lost a worker, from the last whole checkpoint."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Train, and evaluate on the held-out text."""
    from stages.pretrain import work

    return work.run(config, inputs, output, context)
