"""Where DeepSpeed 0.19.8 keeps the float32 weights that an optimizer updates, and which stretch of which parameter lies where in them.

stage 0      the parameters themselves
stage 1, 2   one flat weight a group and rank: a stretch of all the group's parameters end to end      parameter._hp_mapping
stage 3      one a sub-group and rank: each parameter's part, one after the other                      parameter.ds_tensor
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.errors import StageError
from pipeline.training.optimizers import Piece

_NAMES = ("fp32_partitioned_groups_flat", "fp32_groups_flat_partition", "single_partition_of_fp32_groups")


def flat_weights(optimizer: Any, parameters: Mapping[str, torch.Tensor], zero: int) -> list[torch.Tensor]:
    """The tensors that the optimizer updates, under whatever name this stage keeps them.

    Raises:
        StageError: this DeepSpeed keeps them elsewhere.
    """
    if zero == 0:
        return list(parameters.values())
    for name in _NAMES:
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    raise StageError(f"training: {type(optimizer).__name__} keeps its float32 weights in an unknown place; use deepspeed 0.19.8 and on")


def pieces_of(
    optimizer: Any, parameters: Mapping[str, torch.Tensor], groups: list[list[str]], zero: int, rank: int
) -> dict[torch.Tensor, tuple[Piece, ...]]:
    """Weight -> a piece of each parameter in it, in an order that all ranks share.

    groups: the names of the parameters of each group of the optimizer, in its order.
    """
    weights = flat_weights(optimizer, parameters, zero)
    if zero == 0:
        return {p: (Piece(name, tuple(p.shape), 0, 0, p.numel()),) for name, p in parameters.items()}
    if zero == 3:
        name_of = {id(parameter): name for name, parameter in parameters.items()}
        return {
            weight: _parts([(name_of[id(p)], p) for p in members], rank)
            for weight, members in zip(weights, optimizer.fp16_groups, strict=True)
        }
    return {weight: tuple(_fragment(name, parameters[name]) for name in names) for weight, names in zip(weights, groups, strict=True)}


def kinds_of(
    optimizer: Any,
    kinds: list[str],
    weights: list[torch.Tensor],
    groups: list[list[str]],
    parameters: Mapping[str, torch.Tensor],
    zero: int,
) -> list[str]:
    """The kind of each of `weights`, from those of the groups."""
    if zero == 3:
        return [kinds[optimizer.sub_group_to_group_id[number]] for number in range(len(weights))]
    if zero:
        return kinds
    kind_of = {name: kind for kind, names in zip(kinds, groups, strict=True) for name in names}
    return [kind_of[name] for name in parameters]


def _fragment(name: str, parameter: Any) -> Piece:
    mapping = parameter._hp_mapping
    if mapping is None:
        return Piece(name, tuple(parameter.shape), 0, 0, 0)
    here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
    return Piece(name, tuple(parameter.shape), here.start, there.start, here.numel)


def _parts(members: list[tuple[str, Any]], rank: int) -> tuple[Piece, ...]:
    pieces, offset = [], 0
    for name, parameter in members:
        size, whole = parameter.ds_tensor.ds_numel, parameter.ds_numel
        start = min(rank * size, whole)  # the last part is padded
        pieces.append(Piece(name, tuple(parameter.ds_shape), offset, start, min(size, whole - start)))
        offset += size
    return tuple(pieces)
