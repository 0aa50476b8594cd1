"""What DeepSpeed is told, worked out from our settings and the user's own; imports nothing heavy, so a plan may check it.

    our tunables < the user's `deepspeed:` mapping < what the settings say

A key that this program sets is refused in the user's mapping: it would either be ignored or change what the
settings, the records and the checkpoint say of the run.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ConfigError
from pipeline.training.loss_scale import FIRST

_BUCKET_ELEMENTS = 1 << 25
"""Gradients reduced at a time, 128 MiB in float32."""


@dataclass(frozen=True)
class EngineSettings:
    """What the engine needs to know of a run."""

    zero: int
    """ZeRO stage, 0 to 3."""
    offload: bool
    """Optimizer state and its arithmetic on the CPU; needs stage 1 to 3."""
    precision: str
    """"fp32", "bf16" or "fp16", resolved."""
    micro_batch: int
    """Sequences per rank and forward pass."""
    accumulation: int
    """Micro-batches per rank and step."""
    learning_rate: float
    """Peak rate; each step says its own."""
    betas: tuple[float, float]
    """Decay of Adam's moments."""
    eps: float
    """Adam's ε."""
    weight_decay: float
    """Decoupled decay; none for biases and layer norms."""
    clip: float
    """Largest gradient norm; 0 for no clipping."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """The user's own DeepSpeed settings, below ours."""
    optimizer: str = "adamw"
    """A name of `optimizers.KINDS`."""
    momentum: float = 0.95
    """Muon's."""


_OWNED: dict[str, str] = {
    "train_batch_size": "global_batch",
    "train_micro_batch_size_per_gpu": "micro_batch",
    "gradient_accumulation_steps": "global_batch and micro_batch",
    "optimizer": "optimizer, learning_rate, betas, eps, momentum and weight_decay",
    "scheduler": "schedule and warmup_steps",
    "gradient_clipping": "clip",
    "fp16": "precision",
    "bf16": "precision",
    "torch_autocast": "precision",
    "amp": "precision",
    "data_types": "precision",
    "zero_optimization.stage": "zero",
    "zero_optimization.offload_optimizer": "offload",
    "zero_optimization.offload_param": "offload",
    "gradient_allreduce_op": "nothing: the loss is already that of the global batch",
    "managed_gradient_accumulation": "global_batch and micro_batch",
    "tensor_parallel": "nothing: ranks are data-parallel here",
    "sequence_parallel_size": "nothing: ranks are data-parallel here",
    "pipeline": "nothing: ranks are data-parallel here",
}
"""DeepSpeed's keys that this program sets itself, and the setting that governs each."""


def deepspeed_config(settings: EngineSettings) -> dict[str, Any]:
    """The configuration for `deepspeed.initialize`: our tunables < the user's < what the settings say.

    Raises:
        ConfigError: a stage that does not exist, offload at stage 0, or a user's key that would hide one of ours.
    """
    if settings.zero not in (0, 1, 2, 3):
        raise ConfigError(f"zero: stage {settings.zero} does not exist; allowed: 0, 1, 2, 3")
    if settings.offload and settings.zero == 0:
        raise ConfigError("offload: true needs partitioned optimizer state; set zero to 1, 2 or 3")
    if settings.optimizer not in ("adamw", "stable_adamw", "muon"):
        raise ConfigError(f"optimizer: {settings.optimizer!r} is not known; allowed: adamw, stable_adamw, muon")
    if settings.precision not in ("fp32", "bf16", "fp16"):
        raise ConfigError(f"precision: {settings.precision!r} is not resolved; allowed here: fp32, bf16, fp16")
    refuse_owned(settings.extra)
    tunable: dict[str, Any] = {
        "steps_per_print": None,
        "communication_data_type": "fp32",
        "zero_optimization": {
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            "allgather_bucket_size": _BUCKET_ELEMENTS,
        },
    }
    owned: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": settings.accumulation,
        **_optimizer(settings),
        # At stage 0 the engine below clips, since DeepSpeed then keeps the norm to itself.
        "gradient_clipping": settings.clip if settings.zero else 0.0,
        "zero_optimization": {"stage": settings.zero},
    }
    if settings.precision != "fp32" and settings.zero:
        # A scale that is not 0 is DeepSpeed's fixed one, which the engine sets before each backward pass.
        owned[settings.precision] = {"enabled": True, **({"loss_scale": FIRST} if settings.precision == "fp16" else {})}
        owned["data_types"] = {"grad_accum_dtype": "fp32"}
    elif settings.precision != "fp32":
        owned["torch_autocast"] = {"enabled": True, "dtype": "bfloat16" if settings.precision == "bf16" else "float16"}
    if settings.offload:
        owned["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    return _merged(_merged(tunable, settings.extra), owned)


def _optimizer(settings: EngineSettings) -> dict[str, Any]:
    if settings.optimizer != "adamw":  # the engine hands one of ours over
        return {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    adam = {
        "lr": settings.learning_rate,
        "betas": list(settings.betas),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
        "torch_adam": True,
        "fused": True,  # one pass over the memory instead of ten; the same formula
    }
    return {"optimizer": {"type": "AdamW", "params": adam}}


def refuse_owned(extra: Mapping[str, Any]) -> None:
    """Check the user's `deepspeed:` mapping.

    Raises:
        ConfigError: a key that this program sets itself; the message names the setting to use instead.
    """
    for path, governed_by in _OWNED.items():
        if _has_path(extra, path):
            raise ConfigError(f"deepspeed.{path}: set by this program from {governed_by}; remove it from deepspeed")


def _has_path(mapping: Mapping[str, Any], path: str) -> bool:
    head, _, rest = path.partition(".")
    if head not in mapping:
        return False
    return not rest or (isinstance(mapping[head], Mapping) and _has_path(mapping[head], rest))


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(below))
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else copy.deepcopy(value)
    return merged
