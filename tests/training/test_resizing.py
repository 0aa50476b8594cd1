"""A run goes on with another number of ranks: two to one and one to two, every objective and dropout in it, against the run that was never interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.training import checkpoint
from pipeline.training.checkpoint import CheckpointMeta
from pipeline.training.contract import Record, TrainSettings
from pipeline.training.engine import Alone, Engine
from pipeline.training.loop import train
from pipeline.training.objectives.summed import pretraining_loss
from tests.training import pairs
from tests.training.harness import RankGang, run_gang

AT, STEPS, GLOBAL_BATCH = 10, 110, 16


def run(gang: RankGang | Alone, *, keep: Path | None = None, resume_from: Path | None = None) -> list[Record]:
    """The records of one training in two micro-batches a rank, saved at step 10."""
    records: list[Record] = []

    def save(step: int, engine: Engine, meta: CheckpointMeta) -> None:
        if keep is not None and step == AT:
            checkpoint.save(engine, keep, meta)

    settings = TrainSettings(
        steps=STEPS, micro_batch=GLOBAL_BATCH // gang.world_size // 2, learning_rate=1e-3, warmup_steps=5, precision="fp32", zero=1, threads=1, seed=7,
        checkpoint_every=AT,
    )  # fmt: skip
    feed = pairs.feed(steps=STEPS, global_batch=GLOBAL_BATCH)
    train(
        settings, pairs.with_heads(0.1), feed, pretraining_loss, gang, resume_from=resume_from, save=save, watch=records.extend, evaluate=None
    )  # fmt: skip
    return records


def both(gang: RankGang, folder: str, other: str) -> dict[str, Any]:
    """The whole run of this gang, and one that goes on from the other's checkpoint."""
    return {"whole": run(gang, keep=Path(folder)), "resumed": run(gang, resume_from=Path(other))}


def _joins(resumed: list[dict[str, float]], whole: list[dict[str, float]]) -> None:
    assert [record["step"] for record in resumed] == list(range(AT + 1, STEPS + 1))
    for later, (one, other) in enumerate(zip(resumed, whole[AT:], strict=True)):
        for name in ("loss", "gradient_norm"):
            assert one[name] == pytest.approx(other[name], rel=1e-5 if later < 10 and name == "loss" else 1e-3), (name, later)


@pytest.mark.slow
def test_a_run_goes_on_with_half_and_with_twice_the_ranks(tmp_path: Path) -> None:
    alone = run(Alone(), keep=tmp_path / "one")
    arguments = {"folder": str(tmp_path / "two"), "other": str(tmp_path / "one")}
    two = run_gang("tests.training.test_resizing:both", 2, arguments, tmp_path / "gang")[0]
    _joins(two["resumed"], alone)
    _joins(run(Alone(), resume_from=tmp_path / "two"), two["whole"])
    assert alone[0]["loss"] != alone[-1]["loss"]
