"""The only door to DeepSpeed: a module goes in; backward, step and the full float32 state come out.

    start:     module -> process group (the gang's, or one of our own for a single process) -> deepspeed.initialize
    backward:  Σ weight · nll of one micro-batch / weight of the whole step  × ranks   (DeepSpeed divides by ranks; at stage 0 the sum is our own)
    float16:   the loss times a scale; a gradient that overflows makes no update, and `step` says so; see `loss_scale`
    step:      reduced gradients -> norm -> clip -> AdamW, or an optimizer of `optimizers`, at the given rate
    state:     per parameter the float32 master weight and both Adam moments (of Muon its momentum), whole, on every rank

So loss and gradient norm depend on neither ranks nor accumulation nor ZeRO stage. DeepSpeed's own division by the
accumulation is switched off (`scale_wrt_gas=False`): micro-batches hold unequal numbers of masked positions.

Where the float32 weights live (read in deepspeed 0.19.8):

    stage 0, fp32   the parameters themselves
    stage 0, low    the parameters themselves, under autocast: DeepSpeed's own bfloat16 at stage 0 adds up the
                    gradients of the micro-batches in bfloat16; this costs the same memory and does not
    stage 1, bf16   BF16_Optimizer.fp32_groups_flat_partition
    stage 1, 2      single_partition_of_fp32_groups (stage 1 in float16 too)
    stage 3         fp32_partitioned_groups_flat, by parameter in equal parts, the last one padded

The Adam moments are created at the start, as zeros: DeepSpeed would do so at its first step, too late for a
checkpoint to be loaded into them. Nothing is compiled: PyTorch's own AdamW, and no shared-memory operator.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from pipeline.errors import ConfigError, StageError
from pipeline.training.deepspeed_config import EngineSettings, deepspeed_config
from pipeline.training.heap import keep_memory
from pipeline.training.loss_scale import LossScale
from pipeline.training.optimizers import PiecewiseOptimizer, is_hidden_matrix, state_names
from pipeline.training.placement import flat_weights, kinds_of, pieces_of

WHOLE_BYTES = 1 << 20
"""Gradients from this size on are summed over ranks where they lie, without a copy."""


class Gang(Protocol):
    """One rank of the processes that train together, as the launcher hands it over."""

    @property
    def rank(self) -> int:
        """Of this process, from 0."""

    @property
    def world_size(self) -> int:
        """Processes in all."""

    @property
    def local_rank(self) -> int:
        """Of this process on its host, from 0."""

    def checkpointed(self) -> None:
        """Called by every rank after each checkpoint is complete; may be a barrier."""

    def preempted(self) -> bool:
        """Whether this process was told that its machine goes away; called by every rank equally often."""


@dataclass(frozen=True)
class Alone:
    """The gang of a single process that nothing launched."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def checkpointed(self) -> None:
        """Nobody waits for it."""

    def preempted(self) -> bool:
        """Never told."""
        return False


def decays(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay applies: to matrices and embeddings, never to biases and layer norms."""
    return parameter.ndim >= 2 and not name.endswith("bias")


def training_device(gang: Gang) -> torch.device:
    """The GPU of this rank, or the CPU where there is none."""
    return torch.device("cuda", gang.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def load_deepspeed() -> Any:
    """DeepSpeed, imported once, told of the device first and kept from talking and compiling."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Old names of collectives, called at each step; DeepSpeed's to change.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Would be compiled for a minute or two at the first start; it helps inference only.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").addFilter(_is_news)
    return deepspeed


def _is_news(record: logging.LogRecord) -> bool:
    """Not that an optimizer of ours is unknown to DeepSpeed: it is tested here; nor that it skips a step: ours makes it again."""
    return not any(known in record.getMessage() for known in ("untested optimizer", "OVERFLOW! Skipping step"))


def parameter_groups(parameters: Mapping[str, torch.Tensor], settings: EngineSettings) -> list[tuple[str, float, list[str]]]:
    """(kind, weight decay, names) of each group of the optimizer that has a parameter; see `optimizers.KINDS`."""
    rest = "adamw" if settings.optimizer == "muon" else settings.optimizer
    found: dict[tuple[str, float], list[str]] = {}
    for name, parameter in parameters.items():
        kind = "muon" if settings.optimizer == "muon" and is_hidden_matrix(name, parameter) else rest
        found.setdefault((kind, settings.weight_decay if decays(name, parameter) else 0.0), []).append(name)
    return [(kind, decay, found[kind, decay]) for kind, decay in sorted(found, key=lambda each: (each[0], -each[1]))]


class Engine:
    """A module under DeepSpeed. Made by `Engine.start`; every method is called by all ranks in the same order.

    `module` is what to call for a forward pass; `client` is the module that was handed in; `device` is where
    batches belong.
    """

    def __init__(self, deepspeed: Any, engine: Any, client: nn.Module, settings: EngineSettings, gang: Gang, *, owns_group: bool) -> None:
        self._deepspeed = deepspeed
        self._engine = engine
        self._owns_group = owns_group
        self._grad_norm = float("nan")
        self.loss_scale = LossScale() if settings.precision == "fp16" else None
        """In float16; set it to that of a checkpoint before the first step."""
        self._parameters = {name: parameter for name, parameter in client.named_parameters() if parameter.requires_grad}
        self.client = client
        self.settings = settings
        self.gang = gang
        self.device: torch.device = engine.device

    @classmethod
    def start(cls, module: nn.Module, settings: EngineSettings, gang: Gang) -> Engine:
        """Put `module` under DeepSpeed; uses the process group there is, or makes one for a single process.

        Raises:
            ConfigError: see `deepspeed_config`; or float16 at stage 1 to 3 on a CPU that cannot.
            StageError: several ranks, but nobody has joined them.
        """
        config = deepspeed_config(settings)
        if training_device(gang).type == "cpu":
            keep_memory(large=settings.zero == 0)
        deepspeed = load_deepspeed()
        if settings.precision == "fp16" and settings.zero and not deepspeed.accelerator.get_accelerator().is_fp16_supported():
            raise ConfigError("precision: fp16 with zero 1 to 3 needs a GPU, or a CPU that computes in float16; set precision: auto")
        owns_group = False
        if not dist.is_initialized():
            if gang.world_size != 1:
                raise StageError(f"training: rank {gang.rank} of {gang.world_size} has no process group; start the ranks through the gang")
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
            owns_group = True
        # DeepSpeed reads its place from the environment even when the group exists already.
        os.environ["LOCAL_RANK"] = str(gang.local_rank)
        os.environ["RANK"] = str(gang.rank)
        os.environ["WORLD_SIZE"] = str(gang.world_size)
        named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        groups = parameter_groups(named, settings)
        own = _own_optimizer(groups, named, settings)
        given: list[dict[str, Any]] = [{"params": [named[name] for name in names], "weight_decay": decay} for _, decay, names in groups]
        # It prints memory figures that no setting turns off, each after a full garbage collection.
        gc.freeze()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                engine, *_ = deepspeed.initialize(
                    model=module, optimizer=own, model_parameters=None if own else given, config=config, dist_init_required=False
                )
        finally:
            gc.unfreeze()
            # Kept by it for the whole process: the next engine would scale and send its gradients by the format of this one.
            deepspeed.runtime.torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
        # At stage 0 it would copy all gradients into one flat tensor and back, for a single rank too; see `_add_up_gradients`.
        if settings.zero == 0:
            engine.enable_backward_allreduce = False
            engine.torch_autocast_z0_gradscaler = None  # ours scales at every stage
        started = cls(deepspeed, engine, module, settings, gang, owns_group=owns_group)
        started._create_moments(groups)
        return started

    @property
    def module(self) -> nn.Module:
        """Call this for a forward pass."""
        return self._engine

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Trainable parameters by name, each once, with their whole shape."""
        return {name: tuple(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in self._parameters.items()}

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradient of one micro-batch.

        Args:
            loss: Σ weight · nll of this rank's micro-batch divided by the weight of the whole global batch.
            last: whether it is the last of this step: then the ranks' gradients are added up.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        if self.settings.zero:
            if self.loss_scale is not None:
                self._engine.optimizer.loss_scale = self.loss_scale.value
            self._engine.backward(loss * self.gang.world_size, scale_wrt_gas=False)
            return
        self._engine.backward(loss if self.loss_scale is None else loss * self.loss_scale.value, scale_wrt_gas=False)
        if last:
            # One that this step left out moves and decays as with a gradient of 0, on one rank as on several.
            for parameter in self._parameters.values():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            if self.gang.world_size > 1:
                self._add_up_gradients()

    @torch.no_grad()
    def _add_up_gradients(self) -> None:
        """Sum the gradients over ranks: large ones where they lie, small ones together in a flat tensor of each dtype."""
        small: dict[torch.dtype, list[torch.Tensor]] = {}
        works = []
        for parameter in self._parameters.values():
            gradient = parameter.grad
            assert gradient is not None
            if gradient.numel() * gradient.element_size() >= WHOLE_BYTES:
                gradient = parameter.grad = gradient.contiguous()
                works.append(dist.all_reduce(gradient, async_op=True))
            else:
                small.setdefault(gradient.dtype, []).append(gradient)
        for gradients in small.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            parts = [
                part.view_as(gradient) for part, gradient in zip(flat.split([each.numel() for each in gradients]), gradients, strict=True)
            ]
            torch._foreach_copy_(gradients, parts)
        for work in works:
            work.wait()

    def step(self, learning_rate: float) -> bool:
        """One update at `learning_rate`; not made where the gradient is not finite, see `grad_norm`.

        Returns:
            False where a float16 gradient overflowed and the scale was lowered: make the step again.
        """
        for group in self._engine.basic_optimizer.param_groups:
            group["lr"] = learning_rate
        self._grad_norm = self._update()
        if self.loss_scale is None:
            return True
        if math.isfinite(self._grad_norm):
            self.loss_scale.made()
            return True
        return not self.loss_scale.lowered()

    def _update(self) -> float:
        """The update; the gradient's norm, not finite where it was not made."""
        if self.settings.zero == 0:
            norm = self._clip()
            if math.isfinite(norm):
                self._engine.step()
            else:
                self._engine.zero_grad()
            return norm
        self._engine.step()
        if getattr(self._engine.optimizer, "overflow", False):
            return float("inf")  # the norm it keeps is that of the step before
        found = self._engine.get_global_grad_norm()
        # DeepSpeed says −1 for a norm that is not a number.
        return float("nan") if found is None or float(found) < 0 else float(found)

    def grad_norm(self) -> float:
        """Norm of the whole gradient of the last step, before clipping; not finite if that step was not made."""
        return self._grad_norm

    def _clip(self) -> float:
        gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        if self.loss_scale is not None:
            torch._foreach_mul_(gradients, 1 / self.loss_scale.value)
        norms = torch.stack(torch._foreach_norm(gradients)).double()
        norm = float(norms.square().sum().sqrt())
        if self.settings.clip and norm + 1e-6 > self.settings.clip:
            torch._foreach_mul_(gradients, self.settings.clip / (norm + 1e-6))
        return norm

    # The float32 state, read and written parameter by parameter.

    def _flat_weights(self) -> list[torch.Tensor]:
        return flat_weights(self._engine.optimizer, self._parameters, self.settings.zero)

    def _create_moments(self, groups: list[tuple[str, float, list[str]]]) -> None:
        optimizer, zero = self._engine.basic_optimizer, self.settings.zero
        kinds, names = [kind for kind, _, _ in groups], [names for _, _, names in groups]
        self._moments_of = {name: state_names(kind) for kind, _, own in groups for name in own}
        weights = self._flat_weights()
        for weight, kind in zip(weights, kinds_of(self._engine.optimizer, kinds, weights, names, self._parameters, zero), strict=True):
            optimizer.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                **{name: torch.zeros_like(weight, requires_grad=False) for name in state_names(kind)},
            }
        if isinstance(optimizer, PiecewiseOptimizer):
            pieces = pieces_of(self._engine.optimizer, self._parameters, names, zero, self.gang.rank)
            optimizer.place(pieces, device=self.device, rank=self.gang.rank, ranks=self.gang.world_size, is_partitioned=zero > 0)
        if zero in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def moments(self, name: str) -> tuple[str, ...]:
        """What the optimizer keeps of a parameter, beside its weight."""
        return self._moments_of[name]

    def read_state(self) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        """(name, {"weight", *moments(name)}) of each parameter, whole, float32, on every rank; collective.

        The tensors may be the live ones: copy what outlives the next item.
        """
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        for name, parameter in self._parameters.items():
            if self.settings.zero == 0:
                state = self._engine.basic_optimizer.state[parameter]
                yield name, {"weight": parameter.detach(), **{moment: state[moment] for moment in self.moments(name)}}
            else:
                moments = {moment: safe_get_full_optimizer_state(parameter, moment) for moment in self.moments(name)}
                yield name, {"weight": safe_get_full_fp32_param(parameter), **moments}

    @torch.no_grad()
    def write_state(self, state: Iterator[tuple[str, dict[str, torch.Tensor]]], step: int) -> None:
        """Replace weights and moments, and Adam's count of updates; every rank passes the same; collective.

        Args:
            state: as `read_state` gives it, in any order, each parameter once.
            step: updates made so far.
        """
        for name, values in state:
            parameter = self._parameters[name]
            if self.settings.zero == 0:
                parameter.copy_(values["weight"])
                for moment in self.moments(name):
                    self._engine.basic_optimizer.state[parameter][moment].copy_(values[moment])
            elif self.settings.zero == 3:
                self._write_partition(parameter, values, self.moments(name))
            else:
                self._write_fragment(parameter, values, self.moments(name))
        if self.settings.zero in (1, 2):
            self._engine.optimizer.update_lp_params()
        for weight in self._flat_weights():
            self._engine.basic_optimizer.state[weight]["step"].fill_(step)

    def _write_fragment(self, parameter: torch.Tensor, values: dict[str, torch.Tensor], moments: tuple[str, ...]) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        on_device = {key: value.to(self.device) for key, value in values.items()}
        safe_set_full_fp32_param(parameter, on_device["weight"])
        for moment in moments:
            safe_set_full_optimizer_state(parameter, on_device[moment], moment)

    def _write_partition(self, parameter: torch.Tensor, values: dict[str, torch.Tensor], moments: tuple[str, ...]) -> None:
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        with self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(values["weight"])
        # `safe_set_full_*` refuses a parameter whose last part is padded, so each rank cuts out its own.
        size = parameter.ds_tensor.numel()

        def part(value: torch.Tensor) -> torch.Tensor:
            mine = value.flatten()[self.gang.rank * size : (self.gang.rank + 1) * size]
            return torch.nn.functional.pad(mine, (0, size - mine.numel())).to(self.device)

        safe_set_local_fp32_param(parameter, part(values["weight"]))
        for moment in moments:
            safe_set_local_optimizer_state(parameter, part(values[moment]), moment)

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise sum over all ranks, same dtype, on the CPU; collective."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def max_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise maximum over all ranks, same dtype, on the CPU; collective."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: torch.Tensor, operation: Any) -> torch.Tensor:
        total = values.to(self.device, copy=True)
        dist.all_reduce(total, op=operation)
        return total.cpu()

    def close(self) -> None:
        """Let go of the parameters and hooks, and of the process group if it is our own."""
        self._engine.destroy()
        if self._owns_group:
            self._deepspeed.comm.destroy_process_group()


def _own_optimizer(
    groups: list[tuple[str, float, list[str]]], parameters: Mapping[str, torch.nn.Parameter], settings: EngineSettings
) -> PiecewiseOptimizer | None:
    """None where DeepSpeed makes the optimizer: PyTorch's AdamW."""
    if settings.optimizer == "adamw":
        return None
    return PiecewiseOptimizer(
        [{"params": [parameters[name] for name in names], "weight_decay": decay, "kind": kind} for kind, decay, names in groups],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        momentum=settings.momentum,
    )
