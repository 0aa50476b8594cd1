"""Which checkpoints stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.jobs import checkpoints
from pipeline.model.masked_lm import masked_lm_loss
from pipeline.retention import Retention, retain
from pipeline.saving import save_checkpoint
from pipeline.storage import Storage
from pipeline.training.engine import Alone
from pipeline.training.loop import train
from stages.pretrain import Config
from tests.training.cases import TinyFeed, settings, tiny_module

LOSSES = {2: 5.0, 4: 3.0, 6: None, 8: 3.0, 10: 4.0, 12: None}


def test_the_newest_the_best_and_every_so_many_stay() -> None:
    assert Retention(1).keeps(LOSSES) == {12}
    assert Retention(3).keeps(LOSSES) == {8, 10, 12}
    assert Retention(1, best=1).keeps(LOSSES) == {8, 12}
    assert Retention(1, best=3).keeps(LOSSES) == {4, 8, 10, 12}
    assert Retention(1, every=4).keeps(LOSSES) == {4, 8, 12}
    assert Retention(2, best=1, every=6).keeps(LOSSES) == {6, 8, 10, 12}


losses = st.dictionaries(st.integers(1, 50), st.none() | st.floats(0, 9), min_size=1)


@given(losses, st.integers(1, 4), st.integers(0, 4), st.integers(0, 7))
def test_no_more_stays_than_is_asked_for_the_newest_always_and_removing_again_removes_nothing(
    found: dict[int, float | None], last: int, best: int, every: int
) -> None:
    retention = Retention(last, best, every)
    kept = retention.keeps(found)
    assert max(found) in kept <= found.keys()
    assert len(kept) <= last + best + sum(every > 0 and step % every == 0 for step in found)
    assert retention.keeps({step: found[step] for step in kept}) == kept


def saved(storage: Storage, keep: Retention, by_step: dict[int, float]) -> list[int]:
    """The steps whose checkpoints are there after a run of 12 steps with one every 2; held-out losses are given."""

    def save(step: int, engine: Any, meta: Any) -> None:
        save_checkpoint(storage, "checkpoints", step, engine, replace(meta, heldout_loss=by_step.get(step)), Alone(), keep=keep)

    train(
        settings(steps=12, checkpoint_every=2), tiny_module(), TinyFeed(), masked_lm_loss, Alone(), resume_from=None, save=save, watch=lambda _: None,
        evaluate=None,
    )  # fmt: skip
    return [int(path.rpartition("-")[2]) for path in checkpoints(storage, "checkpoints")]


def test_a_run_keeps_what_is_asked_for_and_so_does_its_end(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    assert saved(storage, Retention(2, best=1, every=8), {4: 2.0, 10: 3.0}) == [4, 8, 10, 12]
    retain(storage, "checkpoints", Retention(1, best=1))
    assert [path[-2:] for path in checkpoints(storage, "checkpoints")] == ["04", "12"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000004", "step-00000012"]


def test_what_would_keep_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="keep_best goes by the held-out loss"):
        Config(keep_best=1)
    with pytest.raises(ValidationError, match="keep_every 1500 must be a multiple of checkpoint_every 1000"):
        Config(keep_every=1500)
    assert Config(keep_best=1, keep_every=4000, evaluate_every=1000).keep == 2
