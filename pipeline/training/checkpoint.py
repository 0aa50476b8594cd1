"""Checkpoints: float32 master weights and Adam moments in safetensors, then `checkpoint.json`, which makes them one.

    saving    shapes -> plan: parameter -> file, file -> rank, balanced by size, the same on every rank
              engine.read_state(): each parameter whole on every rank; the rank that owns it keeps a copy
              each rank writes its files and takes their sha256; rank 0 gathers these and writes checkpoint.json
    loading   checkpoint.json -> sha256 of every file -> engine.write_state(): whole parameters, each rank takes its part

A file holds `weight/NAME`, `exp_avg/NAME` and `exp_avg_sq/NAME` (the last not of what Muon trains), float32, whole
tensors: nothing in it knows of ranks or ZeRO stages, so it loads at any. What else a step depends on (rate, data, masks, dropout) is a function
of seed and step, so no generator state is kept. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.errors import IntegrityError, StageError
from pipeline.training.engine import Engine
from pipeline.training.optimizers import MOMENTS

FORMAT = 1
INDEX = "checkpoint.json"
PARTS = ("weight", *MOMENTS)
MAX_FILE_BYTES = 2 << 30
"""A rank holds the tensors of one file while it writes it."""

_BYTES_PER_ELEMENT = 4 * len(PARTS)


@dataclass(frozen=True)
class CheckpointMeta:
    """What goes with the tensors: where the run stands and under what it ran."""

    step: int
    """Updates made."""
    next_sample: int
    """Global index of the first sequence not yet trained on."""
    precision: str
    """"fp32", "bf16" or "fp16", kept on resume."""
    world_size: int
    """Ranks that wrote it."""
    zero: int
    """ZeRO stage that wrote it."""
    tokens_by_language: dict[int, int] = field(default_factory=dict)
    """Tokens seen, padding not counted, by the language ids of the batches."""
    optimizer: str = "adamw"
    """Whose moments these are; see `optimizers.KINDS`."""
    skips: tuple[tuple[int, int], ...] = ()
    """Steps of the data left out, see `pipeline.skips`."""
    recent: dict[str, list[list[float]]] = field(default_factory=dict)
    """What spikes are told from, see `spikes.Watch`."""
    loss_scale: tuple[float, int] | None = None
    """In float16: the scale, and steps since it changed."""
    heldout_loss: float | None = None
    """Where it was measured at this step."""


@dataclass(frozen=True)
class PlannedFile:
    """One file of a checkpoint: who writes it and which parameters are in it."""

    name: str
    rank: int
    parameters: tuple[str, ...]


def plan_files(sizes: dict[str, int], world_size: int, max_file_bytes: int = MAX_FILE_BYTES) -> tuple[PlannedFile, ...]:
    """Share parameters out over ranks, the largest first to the rank with the least, and cut each share into files.

    Args:
        sizes: elements of each parameter.
        world_size: ranks that write.
        max_file_bytes: a file is closed before it grows above this, but holds one parameter at least.

    Returns:
        Files in the order of their numbers; every parameter is in exactly one. The same for every rank.
    """
    loads = [0] * world_size
    shares: list[list[str]] = [[] for _ in range(world_size)]
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        rank = min(range(world_size), key=lambda rank: (loads[rank], rank))
        loads[rank] += sizes[name]
        shares[rank].append(name)
    cuts: list[tuple[int, tuple[str, ...]]] = []
    for rank, share in enumerate(shares):
        current: list[str] = []
        held = 0
        for name in share:
            size = sizes[name] * _BYTES_PER_ELEMENT
            if current and held + size > max_file_bytes:
                cuts.append((rank, tuple(current)))
                current, held = [], 0
            current.append(name)
            held += size
        if current:
            cuts.append((rank, tuple(current)))
    return tuple(PlannedFile(f"model-{i:05d}-of-{len(cuts):05d}.safetensors", rank, names) for i, (rank, names) in enumerate(cuts))


def save(engine: Engine, directory: Path, meta: CheckpointMeta) -> tuple[str, ...]:
    """Write a checkpoint into `directory`; collective. `checkpoint.json` comes last, so its existence means complete.

    Args:
        engine: the running engine.
        directory: local, made if missing, the same on all ranks that share a disk.
        meta: what to keep with it.

    Returns:
        Names of the files that this rank wrote, `checkpoint.json` among those of rank 0.

    Raises:
        StageError: a rank could not write; raised on all of them.
    """
    rank = engine.gang.rank
    sizes = {name: _numel(shape) for name, shape in engine.parameter_shapes.items()}
    plan = plan_files(sizes, engine.gang.world_size)
    owner = {name: index for index, file in enumerate(plan) for name in file.parameters}
    waiting = {index: set(file.parameters) for index, file in enumerate(plan) if file.rank == rank}
    held: dict[int, dict[str, torch.Tensor]] = {}
    complete: list[int] = []
    digests = torch.zeros(len(plan), 32, dtype=torch.int64)
    lengths = torch.zeros(len(plan), dtype=torch.int64)
    failure: Exception | None = None

    def write(index: int) -> None:
        digest, lengths[index] = _write_tensors(directory / plan[index].name, held.pop(index))
        digests[index] = torch.tensor(list(digest))

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        failure = error
    for name, values in engine.read_state():
        index = owner[name]
        if index not in waiting or failure is not None:
            continue  # but go on taking part in the gathering
        tensors = held.setdefault(index, {})
        for part in values:
            tensors[f"{part}/{name}"] = values[part].detach().to("cpu", torch.float32, copy=True).contiguous()
        waiting[index].discard(name)
        if not waiting[index]:
            complete.append(index)
            # The others wait at the next parameter while this rank writes: so it keeps one file back,
            # and the last files are written by all ranks at once, after the loop.
            if len(complete) > 1:
                try:
                    write(complete.pop(0))
                except (OSError, SafetensorError) as error:
                    failure = error
    try:
        for index in complete if failure is None else ():
            write(index)
    except (OSError, SafetensorError) as error:
        failure = error
    _agree(engine, failure, f"checkpoint: {directory} could not be written")
    digests = engine.sum_over_ranks(digests)
    lengths = engine.sum_over_ranks(lengths)
    if rank == 0:
        index_of_files = {
            "format": FORMAT,
            "meta": {**asdict(meta), "tokens_by_language": {str(k): v for k, v in sorted(meta.tokens_by_language.items())}},
            "files": [
                {
                    "name": file.name,
                    "bytes": int(lengths[i]),
                    "sha256": bytes(digests[i].tolist()).hex(),
                    "parameters": list(file.parameters),
                }
                for i, file in enumerate(plan)
            ],
        }
        try:
            _write_bytes(directory / INDEX, (json.dumps(index_of_files, indent=1, sort_keys=True) + "\n").encode())
        except OSError as error:
            failure = error
    _agree(engine, failure, f"checkpoint: {directory / INDEX} could not be written")
    mine = tuple(file.name for file in plan if file.rank == rank)
    return (*mine, INDEX) if rank == 0 else mine


def load(engine: Engine, directory: Path) -> CheckpointMeta:
    """Put a checkpoint into a running engine, of any world size and ZeRO stage; collective.

    Returns:
        What was kept with it.

    Raises:
        IntegrityError: a file is missing or its bytes are not those recorded; raised on all ranks, before anything changed.
        StageError: it is of another model, or of a newer format.
    """
    failure: IntegrityError | StageError | None = None
    try:
        index = _read_index(directory)
        _verify_files(directory, index)
        _same_optimizer(engine.settings.optimizer, directory, index)
        _match(engine.parameter_shapes, directory, index)
    except (IntegrityError, StageError) as error:
        failure = error
    if int(engine.max_over_ranks(torch.tensor([int(failure is not None)]))[0]):
        raise failure or IntegrityError(f"{directory}: another rank found this checkpoint damaged; its message names the file")
    meta = _meta(index)
    engine.write_state(_read_tensors(directory, index, PARTS), meta.step)
    return meta


def read_meta(directory: Path) -> CheckpointMeta:
    """What was kept with a checkpoint, without its tensors.

    Raises:
        IntegrityError: there is no readable `checkpoint.json`.
        StageError: it is of a newer format.
    """
    return _meta(_read_index(directory))


def load_checkpoint_weights(directory: Path) -> dict[str, torch.Tensor]:
    """The float32 weights of a checkpoint by parameter name, verified; names are those of the module trained.

    Raises:
        IntegrityError: a file is missing or its bytes are not those recorded.
    """
    index = _read_index(directory)
    _verify_files(directory, index)
    return {name: values["weight"] for name, values in _read_tensors(directory, index, ("weight",))}


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> tuple[bytes, int]:
    save_file(tensors, path)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return _digest(path), path.stat().st_size


def _write_bytes(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _agree(engine: Engine, failure: Exception | None, message: str) -> None:
    """Raise on every rank when one has failed: else the others would wait for it until the deadline."""
    if int(engine.max_over_ranks(torch.tensor([int(failure is not None)]))[0]):
        reason = str(failure) if failure is not None else "the message of another rank says why"
        raise StageError(f"{message}: {reason}")


def _read_index(directory: Path) -> dict[str, Any]:
    path = directory / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise IntegrityError(f"{path}: not there, so the checkpoint was never completed; use the one before it") from error
    except ValueError as error:
        raise IntegrityError(f"{path}: not readable ({error}); use the checkpoint before it") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        found = index.get("format") if isinstance(index, dict) else None
        raise StageError(f"{path}: format {found!r}; this version reads format {FORMAT}; use the version that wrote it")
    return index


def _meta(index: dict[str, Any]) -> CheckpointMeta:
    meta = dict(index["meta"])
    meta["tokens_by_language"] = {int(k): int(v) for k, v in meta["tokens_by_language"].items()}
    meta["loss_scale"] = None if meta.get("loss_scale") is None else (float(meta["loss_scale"][0]), int(meta["loss_scale"][1]))
    meta["skips"] = tuple((int(first), int(stop)) for first, stop in meta.get("skips", ()))
    return CheckpointMeta(**meta)


def _verify_files(directory: Path, index: dict[str, Any]) -> None:
    for file in index["files"]:
        path = directory / file["name"]
        if not path.is_file():
            raise IntegrityError(f"{path}: missing from the checkpoint; use the one before it")
        if path.stat().st_size != file["bytes"] or _digest(path).hex() != file["sha256"]:
            raise IntegrityError(f"{path}: bytes differ from the sha256 in {INDEX}; use the checkpoint before it")


def _same_optimizer(optimizer: str, directory: Path, index: dict[str, Any]) -> None:
    found = _meta(index).optimizer
    if found != optimizer:
        raise StageError(
            f"{directory}: written with optimizer {found}, this run has {optimizer}; resume with the optimizer it was trained with"
        )


def _match(shapes: dict[str, tuple[int, ...]], directory: Path, index: dict[str, Any]) -> None:
    """The checkpoint and the model have the same parameters with the same shapes."""
    found: dict[str, tuple[int, ...]] = {}
    for file in index["files"]:
        with safe_open(directory / file["name"], framework="pt") as stored:
            found |= {name: tuple(stored.get_slice(f"weight/{name}").get_shape()) for name in file["parameters"]}
    for name in sorted(found.keys() | shapes.keys()):
        if found.get(name) != shapes.get(name):
            raise StageError(
                f"{directory}: parameter {name} has shape {found.get(name, 'none')} in the checkpoint and "
                f"{shapes.get(name, 'none')} in the model; resume with the model it was written for"
            )


def _read_tensors(directory: Path, index: dict[str, Any], parts: tuple[str, ...]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    for file in index["files"]:
        with safe_open(directory / file["name"], framework="pt") as stored:
            held = set(stored.keys())
            for name in file["parameters"]:
                yield name, {part: stored.get_tensor(f"{part}/{name}") for part in parts if f"{part}/{name}" in held}
