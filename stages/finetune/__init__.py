"""finetune: trains a downstream task on an exported encoder (any Hugging Face directory will do), by the same gang and loop as pretraining.

Beside it, by the same recipe, the same encoder that was never pretrained: the baseline that shows what pretraining gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from pipeline.artifacts import BASELINE_MODEL, EXAMPLES, EXPORTED_MODEL
from pipeline.config import NonEmpty, Section, outside
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary

VERSION = 1
LIBRARIES = ("deepspeed", "torch", "transformers")
GRADE = Grade.TRAINING
GLOBALS = ("seed",)
INPUTS = {"model": Slot(EXPORTED_MODEL, "export"), "examples": Slot(EXAMPLES, "examples")}
OUTPUT = {"model": EXPORTED_MODEL, "baseline": BASELINE_MODEL}
DEFAULT = False
NAMES = {"examples": ("examples", "sets")}


class Config(Section):
    """Settings of finetune."""

    task: Literal["classification"] = "classification"
    """The downstream task; see pipeline/tasks."""
    examples: NonEmpty
    """Name of the set of examples; its split `train` is used."""
    epochs: int = Field(5, ge=1)
    """Passes over the training examples."""
    global_batch: int = Field(32, ge=1)
    """Examples in a step, over all ranks."""
    learning_rate: float = Field(2e-5, gt=0)
    """Peak learning rate (XTREME 2e-5 for pretrained encoders of base size)."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of the steps over which the rate climbs."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate after warmup."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay."""
    clip: float = Field(1.0, ge=0)
    """Largest gradient norm; 0 does not clip."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of hidden states, attention and head."""
    max_length: int = Field(128, ge=8)
    """Most tokens of an example; what is longer loses its end."""
    micro_batch: int | None = outside(None, ge=1)
    """Examples per rank and forward pass; none takes the largest divisor of a rank's share up to 16."""
    zero: Literal[0, 1, 2, 3] = outside(0)
    """DeepSpeed ZeRO stage."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = outside("fp32")
    """Arithmetic of the forward and backward pass."""
    checkpoint_every: int = outside(500, ge=0)
    """Steps between checkpoints; 0 saves the last only."""
    log_every: int = outside(10, ge=1)
    """Steps between records handed on."""
    max_restarts: int = outside(3, ge=0)
    """Times the gang is started again after it lost a worker."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Train the task on the encoder and on its untrained twin."""
    from stages.finetune import work

    return work.run(config, inputs, output, context)
