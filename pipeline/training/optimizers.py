"""Optimizers that must know where one tensor ends and the next begins, over the flat parts that ZeRO leaves of them.

    stable_adamw   AdamW whose rate is divided, tensor by tensor, by max(1, RMS(g / √v))        Wortsman et al. 2023, algorithm 2; ModernBERT, mmBERT
    muon           matrices of the layers: momentum, then Newton–Schulz to UVᵀ                    Jordan 2024, scaled by 0.2·√max(rows, columns) (Moonlight)
                   all else (embeddings, head, biases, norms): AdamW at the same rate

A weight here is what DeepSpeed updates: a parameter (stage 0), a rank's part of all parameters of a group end to end (1, 2), or its parts of each (3). A `Piece`
says which stretch of which tensor lies where in it. Every rank lists every tensor of a weight, with a piece of no elements where it holds none, so that the ranks
walk through the same list:

    stable_adamw   Σ g²/v of the pieces -> summed over ranks, one number a tensor -> the rate of each tensor
    muon           pieces -> whole matrix on one rank, the next matrix on the next -> orthogonalised there -> sent to all -> each takes its piece

Both are exact: what is updated depends on neither ranks nor stage but for the order of the additions. Muon's exchange moves each matrix of the layers twice a step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.optim.adamw import adamw

KINDS = ("adamw", "stable_adamw", "muon")

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's state by the names PyTorch and DeepSpeed give it; Muon has the first alone, its momentum."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Of the quintic a·X + b·(XXᵀ)X + c·(XXᵀ)²X (Jordan 2024): five times, singular values come to 0.7 to 1.2."""
_ITERATIONS = 5
_OF_A_LAYER = re.compile(r"\.(encoder\.layer|layers|attentions|ffns)\.\d+\.")
"""In XLM-R; ModernBERT and EuroBERT; XLM."""
WAVE_ELEMENTS = 1 << 25
"""Matrices put together at a time, 128 MiB in float32."""
CHUNK_ELEMENTS = 1 << 22
"""What StableAdamW works on at a time: its intermediate values take three times 16 MiB and not three times the embeddings."""


@dataclass(frozen=True)
class Piece:
    """The stretch of one tensor that lies in a weight of this rank."""

    name: str
    """Of the tensor."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    offset: int
    """Where the stretch begins in the weight."""
    start: int
    """Where it begins in the tensor, flattened."""
    numel: int
    """Its elements; 0 where this rank holds none."""

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """The stretch of a weight, or of anything of its shape, as a view."""
        return flat.view(-1)[self.offset : self.offset + self.numel]

    def chunks(self) -> Iterator[Piece]:
        """The stretch in order, at most `CHUNK_ELEMENTS` at a time."""
        for at in range(0, self.numel, CHUNK_ELEMENTS):
            yield replace(self, offset=self.offset + at, start=self.start + at, numel=min(CHUNK_ELEMENTS, self.numel - at))


def is_hidden_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Whether Muon orthogonalises it: matrices of the layers, and neither embeddings nor a head. ZeRO-3 leaves no shape but `ds_shape`.

    Matrices that the library keeps as one (ModernBERT's query, key and value, gate and input) are orthogonalised as one.
    """
    return len(getattr(parameter, "ds_shape", parameter.shape)) == 2 and _OF_A_LAYER.search(f".{name}") is not None


def orthogonalised(matrix: torch.Tensor, iterations: int = _ITERATIONS) -> torch.Tensor:
    """UVᵀ, nearly, of a matrix USVᵀ [rows, columns] by Newton–Schulz; in bfloat16 on a GPU, else in its own format. Zeros stay zeros."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if is_tall else x).to(matrix.dtype)


class PiecewiseOptimizer(torch.optim.Optimizer):
    """Groups have a `kind` each, see `KINDS`; `place` tells it the pieces of each weight before the first step.

    State of a weight, which its maker sets: `step` and `state_names(kind)`, of the weight's shape.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "momentum": momentum, "weight_decay": 0.0, "kind": "adamw"})
        self._pieces: Mapping[torch.Tensor, tuple[Piece, ...]] = {}
        self._device, self._rank, self._ranks, self._is_partitioned = torch.device("cpu"), 0, 1, False

    def place(
        self, pieces: Mapping[torch.Tensor, tuple[Piece, ...]], *, device: torch.device, rank: int, ranks: int, is_partitioned: bool
    ) -> None:
        """Weight -> its pieces, one a tensor, in an order that all ranks share.

        is_partitioned: whether ranks hold different pieces (ZeRO 1 to 3), or each the whole of all. device: what the ranks exchange lies there.
        """
        self._pieces, self._device, self._rank, self._ranks = pieces, device, rank, ranks
        self._is_partitioned = is_partitioned and ranks > 1

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update the weights that have a gradient; collective."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                {"adamw": self._adamw, "stable_adamw": self._stable_adamw, "muon": self._muon}[group["kind"]](group, weights)

    def _adamw(self, group: dict[str, Any], weights: list[torch.Tensor]) -> None:
        """PyTorch's own, in one pass over the memory."""
        states = [self.state[weight] for weight in weights]
        adamw(
            weights,
            [_grad(weight) for weight in weights],
            *([state[name] for state in states] for name in MOMENTS),
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _stable_adamw(self, group: dict[str, Any], weights: list[torch.Tensor]) -> None:
        (beta1, beta2), eps = group["betas"], group["eps"]
        parts = list(self._parts(weights))
        sums = torch.zeros(len(parts), dtype=torch.float64, device=weights[0].device)
        for weight in weights:
            self.state[weight]["step"] += 1
        for number, (weight, piece) in enumerate(parts):
            for chunk in piece.chunks():
                gradient, first, second = (chunk.of(flat) for flat in (_grad(weight), *self._moments(weight)))
                first.lerp_(gradient, 1 - beta1)
                second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                unbiased = (second / self._correction(weight, beta2)).clamp_min_(eps * eps)
                sums[number] += torch.sum(gradient.square().div_(unbiased), dtype=torch.float64)
        numels = torch.tensor([math.prod(piece.shape) for _, piece in parts], dtype=torch.float64, device=sums.device)
        rates = group["lr"] / (self._summed(sums) / numels).sqrt().clamp_min(1.0)
        for rate, (weight, piece) in zip(rates, parts, strict=True):
            for chunk in piece.chunks():
                first, second = (chunk.of(flat) for flat in self._moments(weight))
                update = first / ((second / self._correction(weight, beta2)).sqrt_().add_(eps)).mul_(self._correction(weight, beta1))
                chunk.of(weight).mul_(1 - rate * group["weight_decay"]).sub_(update.mul_(rate))

    def _muon(self, group: dict[str, Any], weights: list[torch.Tensor]) -> None:
        momentum, rate, parts = group["momentum"], group["lr"], list(self._parts(weights))
        for weight in weights:
            self.state[weight]["step"] += 1
        for flag, (weight, piece) in (flagged := list(zip(self._have_gradients(parts), parts, strict=True))):
            piece.of(self.state[weight]["exp_avg"]).mul_(1 - flag * (1 - momentum)).add_(piece.of(_grad(weight)))
        for wave in _waves(flagged):
            nesterov = [piece.of(_grad(weight)) + momentum * piece.of(self.state[weight]["exp_avg"]) for _, (weight, piece) in wave]
            wholes = self._orthogonalised([piece for _, (_, piece) in wave], nesterov)
            for whole, (flag, (weight, piece)) in zip(wholes, wave, strict=True):
                scale = rate * 0.2 * math.sqrt(max(piece.shape))
                update = whole.view(-1)[piece.start : piece.start + piece.numel].to(weight.device)
                piece.of(weight).mul_(1 - flag * rate * group["weight_decay"]).sub_(update * (flag * scale))

    def _have_gradients(self, parts: list[tuple[torch.Tensor, Piece]]) -> torch.Tensor:
        """For each tensor 1, or 0 where its whole gradient is zero: a step of an objective that does not reach it, at ZeRO 1 to 3; else its old momentum would move
        it as far as any gradient."""
        flags = torch.stack([piece.of(_grad(weight)).any() for weight, piece in parts]).float()
        if not self._is_partitioned:
            return flags
        total = flags.to(self._device)
        dist.all_reduce(total, op=dist.ReduceOp.MAX)
        return total.to(flags.device)

    def _orthogonalised(self, pieces: list[Piece], values: list[torch.Tensor]) -> list[torch.Tensor]:
        """The whole matrices of `pieces`, orthogonalised, each computed on one rank."""
        wholes = []
        for number, (piece, value) in enumerate(zip(pieces, values, strict=True)):
            whole = torch.zeros(piece.shape, dtype=torch.float32, device=self._device)
            whole.view(-1)[piece.start : piece.start + piece.numel] = value.to(self._device)
            if self._is_partitioned:
                dist.reduce(whole, dst=number % self._ranks)
            wholes.append(whole)
        for number, whole in enumerate(wholes):
            if number % self._ranks == self._rank:
                wholes[number] = orthogonalised(whole).contiguous()
        if self._ranks > 1:
            for number, whole in enumerate(wholes):
                dist.broadcast(whole, src=number % self._ranks)
        return wholes

    def _parts(self, weights: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, Piece]]:
        return ((weight, piece) for weight in weights for piece in self._pieces[weight])

    def _moments(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state = self.state[weight]
        return state["exp_avg"], state["exp_avg_sq"]

    def _correction(self, weight: torch.Tensor, beta: float) -> torch.Tensor:
        """1 − βᵗ, a float64 scalar on the weight's device."""
        step: torch.Tensor = self.state[weight]["step"].double()
        return 1 - torch.pow(torch.full_like(step, beta), step)

    def _summed(self, sums: torch.Tensor) -> torch.Tensor:
        if not self._is_partitioned:
            return sums
        total = sums.to(self._device)
        dist.all_reduce(total)
        return total.to(sums.device)


def state_names(kind: str) -> tuple[str, ...]:
    """What a group of this kind keeps of each weight, beside the count of steps."""
    return MOMENTS[:1] if kind == "muon" else MOMENTS


def _grad(weight: torch.Tensor) -> torch.Tensor:
    assert weight.grad is not None
    return weight.grad


def _waves(
    flagged: Iterable[tuple[torch.Tensor, tuple[torch.Tensor, Piece]]],
) -> Iterator[list[tuple[torch.Tensor, tuple[torch.Tensor, Piece]]]]:
    """Parts in order, as many together as `WAVE_ELEMENTS` holds of their whole matrices, one at least."""
    wave: list[tuple[torch.Tensor, tuple[torch.Tensor, Piece]]] = []
    held = 0
    for flag, (weight, piece) in flagged:
        size = math.prod(piece.shape)
        if wave and held + size > WAVE_ELEMENTS:
            yield wave
            wave, held = [], 0
        wave.append((flag, (weight, piece)))
        held += size
    if wave:
        yield wave
