"""A tiny feed and a tiny run, for tests on one rank and on several."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import PipelineError
from pipeline.model.build import build_masked_lm
from pipeline.model.masked_lm import MaskedLM, masked_lm_loss
from pipeline.model.sizes import ModelSize
from pipeline.skips import Skips
from pipeline.training import checkpoint
from pipeline.training.checkpoint import CheckpointMeta
from pipeline.training.contract import Record, TrainOutcome, TrainSettings
from pipeline.training.deepspeed_config import EngineSettings
from pipeline.training.engine import Alone, Engine
from pipeline.training.loop import train
from pipeline.training.spikes import SpikeRule
from tests.training.harness import RankGang

SIZE = ModelSize(2, 16, 2, 24, 514, None)
VOCAB = 51  # odd, so that parts of its parameters need padding
PLACES = 10
OPTIMIZERS: dict[str, Any] = {"steps": 6, "clip": 0.0, "loud": (3,), "learning_rate": 5e-2}
"""Of the runs that compare optimizers with their formulas: a gradient that jumps and is not clipped is what StableAdamW is for."""


@dataclasses.dataclass(frozen=True)
class Batch:
    input_ids_BT: npt.NDArray[np.int64]
    attention_BT: npt.NDArray[np.bool_]
    positions_BT: npt.NDArray[np.int64]
    masked_index_M: npt.NDArray[np.int64]
    labels_M: npt.NDArray[np.int64]
    weights_M: npt.NDArray[np.float32]
    languages_B: npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class TinyFeed:
    """Rows of unequal length with unequally many masked positions: so no two micro-batches weigh the same."""

    global_batch: int = 8
    poisoned_step: int = -1
    loud: tuple[int, ...] = ()
    """Steps whose predictions weigh eight times as much as the step says, so that loss and gradient jump."""
    slow_rank: int = -1
    """A rank that takes 0.3 s more over a step."""

    def row(self, step: int, sample: int) -> tuple[npt.NDArray[np.int64], int, int, int]:
        """(ids, length, masked positions, language) of one sequence, whatever the cut."""
        draw = np.random.default_rng([step, sample])
        length, language = int(draw.integers(4, PLACES + 1)), int(draw.integers(0, 3))
        return draw.integers(5, VOCAB - 1, PLACES), length, int(draw.integers(1, 4)), language

    def micro_batches(self, step: int, rank: int, world_size: int, micro_batch: int) -> Iterator[Batch]:
        share = self.global_batch // world_size
        if rank == self.slow_rank:
            time.sleep(0.3)
        for start in range(rank * share, (rank + 1) * share, micro_batch):
            yield self.batch(step, range(start, min(start + micro_batch, (rank + 1) * share)))

    def batch(self, step: int, samples: range) -> Batch:
        rows = [self.row(step, sample) for sample in samples]
        attention = np.array([np.arange(PLACES) < length for _, length, _, _ in rows])
        ids = np.where(attention, np.array([ids for ids, *_ in rows]), 1)
        index, labels, weights = [], [], []
        for b, (_, _, masked, _) in enumerate(rows):
            for m in range(4):
                index.append(b * PLACES + m if m < masked else 0)
                labels.append(int(ids[b, m]))
                weights.append(1.0 if m < masked else 0.0)
                if m < masked:
                    ids[b, m] = VOCAB - 1
        if step == self.poisoned_step:
            weights[0] = float("inf")
        if step in self.loud:
            weights = [8 * weight for weight in weights]
        return Batch(
            ids,
            attention,
            np.where(attention, np.arange(2, PLACES + 2), 1),
            np.array(index),
            np.array(labels),
            np.array(weights, dtype=np.float32),
            np.array([language for *_, language in rows], dtype=np.int32),
        )

    def weight(self, step: int) -> float:
        return float(sum(self.row(step, sample)[2] for sample in range(self.global_batch)))


def tiny_module(dropout: float = 0.0, seed: int = 1) -> MaskedLM:
    return MaskedLM(build_masked_lm(SIZE, VOCAB, seed=seed, dropout=dropout, max_length=16))


def settings(**changes: Any) -> TrainSettings:
    defaults: dict[str, Any] = {
        "steps": 3,
        "micro_batch": 8,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "clip": 1.0,
        "threads": 1,
        "seed": 7,
    }
    if "betas" in changes:
        changes["betas"] = tuple(changes["betas"])
    return TrainSettings(**(defaults | changes))


def digest_of(module: torch.nn.Module) -> str:
    """Of all weights, in name order; only where whole parameters are at hand (stages 0 to 2)."""
    total = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        total.update(name.encode() + parameter.detach().float().numpy().tobytes())
    return total.hexdigest()


def run(
    gang: RankGang | Alone,
    *,
    dropout: float = 0.0,
    resume_from: str | None = None,
    keep: str | None = None,
    global_batch: int = 8,
    poisoned_step: int = -1,
    loud: Sequence[int] = (),
    slow_rank: int = -1,
    spikes: SpikeRule | None = None,
    skips: Skips | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """One training: its records, outcome and digest; checkpoints go to `keep`/STEP."""
    records: list[Record] = []
    saved: list[int] = []

    def save(step: int, engine: Engine, meta: CheckpointMeta) -> None:
        saved.append(step)
        if keep is not None:
            checkpoint.save(engine, Path(keep) / str(step), meta)

    module = tiny_module(dropout)
    error, outcome = None, None
    try:
        outcome = train(
            settings(**changes),
            module,
            TinyFeed(global_batch, poisoned_step, tuple(loud), slow_rank),
            masked_lm_loss,
            gang,
            resume_from=None if resume_from is None else Path(resume_from),
            save=save,
            watch=records.extend,
            evaluate=None,
            spikes=spikes,
            skips=skips,
        )
    except PipelineError as problem:
        error = [type(problem).__name__, str(problem)]
    whole = changes.get("zero", 0) != 3 and error is None
    return {
        "records": records,
        "saved": saved,
        "error": error,
        "outcome": _plain(outcome),
        "digest": digest_of(module) if whole else None,
    }


def _plain(outcome: TrainOutcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    return dataclasses.asdict(outcome) | {"tokens_by_language": sorted(outcome.tokens_by_language.items())}


def run_all(gang: RankGang, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Several trainings one after the other on the same ranks, since a process takes seconds to start."""
    return [run(dataclasses.replace(gang, patience=one.pop("patience", gang.patience)), **one) for one in runs]


def exercise_checkpoint(gang: RankGang, folder: str, zero: int, precision: str, optimizer: str = "adamw") -> dict[str, Any]:
    """Writes arbitrary state, saves, reads it back into a second engine: what differs is returned."""
    engine_settings = EngineSettings(zero, False, precision, 4, 1, 1e-3, (0.9, 0.98), 1e-6, 0.01, 1.0, optimizer=optimizer)
    directory = Path(folder) / f"{zero}-{precision}"
    first = Engine.start(tiny_module(seed=1), engine_settings, gang)
    before = {
        name: {part: value for part, value in arbitrary_state(name, shape).items() if part in ("weight", *first.moments(name))}
        for name, shape in first.parameter_shapes.items()
    }
    first.write_state(iter(before.items()), step=12)
    files = checkpoint.save(first, directory, CheckpointMeta(12, 96, precision, gang.world_size, zero, {3: 5}, optimizer))
    first.close()
    second = Engine.start(tiny_module(seed=2), engine_settings, gang)
    meta = checkpoint.load(second, directory)
    different = [
        f"{name}/{part}"
        for name, values in second.read_state()
        for part, value in values.items()
        if not torch.equal(value.cpu(), before[name][part])
    ]
    loss = float(masked_lm_loss(second.module, {k: torch.from_numpy(v) for k, v in vars(TinyFeed().batch(0, range(4))).items()}).detach())
    second.close()
    return {
        "files": files,
        "different": different,
        "meta": [meta.step, meta.next_sample, meta.precision, meta.tokens_by_language[3]],
        "loss": loss,
    }


def arbitrary_state(name: str, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Values that no rounding to bfloat16 leaves as they are."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    return {part: torch.randn(shape, generator=generator) * 0.1 for part in ("weight", "exp_avg")} | {
        "exp_avg_sq": torch.rand(shape, generator=generator)
    }


def suite(gang: RankGang, folder: str) -> dict[str, Any]:
    """All that is tested on two ranks, in one start of them; `tests/training/conftest.py` runs it."""
    keep = Path(folder)
    cuts = {f"{zero}-{4 // micro}": {"zero": zero, "micro_batch": micro} for zero in range(4) for micro in (4, 1)}
    cuts |= {f"{zero}-offload": {"zero": zero, "micro_batch": 1, "offload": True} for zero in (1, 2, 3)}
    results: dict[str, Any] = {name: run(gang, **cut) for name, cut in cuts.items()}
    results["before"] = run(gang, zero=2, micro_batch=2, steps=20, checkpoint_every=10, keep=str(keep / "before"))
    for name, changes in {
        "fp32": {"zero": 1, "precision": "fp32"},
        "bf16": {"zero": 2, "precision": "bf16"},
        "bf16-1": {"zero": 1, "precision": "bf16"},
        "fp32-3": {"zero": 3, "precision": "fp32"},
    }.items():
        common: dict[str, Any] = {"dropout": 0.1, "steps": 6, "micro_batch": 2, **changes}
        results[f"whole-{name}"] = run(gang, checkpoint_every=3, keep=str(keep / f"whole-{name}"), **common)
        results[f"resumed-{name}"] = run(gang, resume_from=str(keep / f"whole-{name}" / "3"), **common)
    results["poisoned"] = run(gang, zero=2, micro_batch=4, steps=4, poisoned_step=2, log_every=100)
    results["spiked"] = run(
        gang, zero=1, micro_batch=4, steps=14, loud=(9,), checkpoint_every=8, spikes=SpikeRule(12.0, 0.0, 8), learning_rate=1e-3
    )
    results["slow"] = run(gang, micro_batch=4, slow_rank=1)
    results["preempted"] = run(dataclasses.replace(gang, patience=1 if gang.rank else 100), micro_batch=4, steps=9, log_every=2)
    for zero in range(4):
        for precision in ("fp32", "bf16"):
            results[f"state-{zero}-{precision}"] = exercise_checkpoint(gang, str(keep / "state"), zero, precision)
    results |= optimizer_suite(gang, keep)
    results["unwritable"] = run(gang, micro_batch=4, steps=1, keep="/proc/nowhere" if gang.rank else str(keep / "unwritable"))
    return results


def optimizer_suite(gang: RankGang, keep: Path) -> dict[str, Any]:
    """The optimizers of our own at every stage, accumulation and place of their state."""
    results: dict[str, Any] = {}
    for optimizer in ("stable_adamw", "muon"):
        for zero in range(4):
            for micro in (4, 1):
                name = f"{optimizer}-{zero}-{4 // micro}"
                saved: dict[str, Any] = {"checkpoint_every": 2, "keep": str(keep / name)} if (zero, micro) == (2, 4) else {}
                results[name] = run(gang, optimizer=optimizer, zero=zero, micro_batch=micro, **OPTIMIZERS, **saved)
        for zero in (1, 3):
            results[f"state-{optimizer}-{zero}"] = exercise_checkpoint(gang, str(keep / f"state-{optimizer}"), zero, "fp32", optimizer)
            results[f"{optimizer}-{zero}-offload"] = run(gang, optimizer=optimizer, zero=zero, micro_batch=2, offload=True, **OPTIMIZERS)
    return results
