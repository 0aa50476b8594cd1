"""Several objectives in one run: shares, order, and the same loss and gradient however the batch is cut."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.training.engine import Alone
from pipeline.training.mixing import Mixed
from stages.pretrain.feeds import feed_of, planned_tokens
from tests.training.harness import run_gang
from tests.training.pairs import ALL, STEPS, config, feed, pairs, run, texts
from tests.training.test_batches import VOCAB


def test_each_objective_has_steps_in_exact_proportion_and_its_own_steps_come_one_after_the_other() -> None:
    (mixed,) = feed(steps=90, phases=[], objectives={"mlm": 1.0, "tlm": 0.5, "contrast": 0.75}).feeds
    assert isinstance(mixed, Mixed)
    turns = [mixed.turn(step) for step in range(90)]
    assert Counter(name for name, _ in turns) == {"mlm": 40, "tlm": 20, "contrast": 30}
    for name in ("mlm", "tlm", "contrast"):
        assert [own for turn, own in turns if turn == name] == list(range(Counter(n for n, _ in turns)[name]))
    assert len({name for name, _ in turns[:12]}) == 3, "objectives alternate"
    assert turns == [feed(steps=90, phases=[], objectives={"mlm": 1.0, "tlm": 0.5, "contrast": 0.75}).feeds[0].turn(s) for s in range(90)]  # type: ignore[attr-defined]


def test_a_run_of_one_objective_is_that_objectives_own_feed_and_names_none() -> None:
    alone = feed(objectives={"mlm": 0.3}, phases=[])
    assert not isinstance(alone.feeds[0], Mixed) and alone.objective_at(0) is None
    assert feed().objective_at(0) == "contrast"


def test_every_sample_of_a_step_comes_once_and_the_weight_is_what_the_batches_hold() -> None:
    whole = feed()
    for step in range(STEPS):
        parts = [batch for rank in range(2) for batch in whole.micro_batches(step, rank, 2, 2)]
        if whole.objective_at(step) == "contrast":
            assert sorted(i for batch in parts for i in batch.place_B.tolist()) == list(range(16))
            assert whole.weight(step) == 8
        else:
            assert len({int(g) for batch in parts for g in batch.samples_B}) == 8
            weights = [batch.weights_B if whole.objective_at(step) == "nsp" else batch.weights_M for batch in parts]
            assert whole.weight(step) == sum(each.sum() for each in weights)
        assert all((batch.languages_B >= 2).all() == (whole.objective_at(step) in ("tlm", "contrast")) for batch in parts), (
            "pairs count behind languages"
        )


def test_an_objective_on_pairs_without_pairs_is_refused_and_so_is_a_weight_of_none() -> None:
    with pytest.raises(ConfigError, match=r"pretrain\.objectives: tlm reads translation pairs, and there are none"):
        feed_of(config(objectives={"tlm": 1.0}, phases=[]), texts(), VOCAB, 5, {})
    with pytest.raises(ConfigError, match=r"pretrain\.global_batch: contrast: a global batch of 1 pair holds no negative"):
        feed(global_batch=1, objectives={"contrast": 1.0}, phases=[])
    for changes in ({"objectives": {"mlm": 0.0}}, {"phases": [{"share": 1.0, "objectives": {"tlm": -1.0}}]}):
        with pytest.raises(ValidationError, match="must be above 0; leave out what is not wanted"):
            config(**changes)


def test_the_plan_counts_the_tokens_of_languages_and_of_pairs() -> None:
    planned = planned_tokens(feed(), STEPS)
    assert sorted(planned) == ["en", "en-sw", "en-zh", "sw"] and min(planned.values()) > 0
    only = planned_tokens(feed(objectives={"contrast": 1.0}, phases=[]), STEPS)
    mean = sum(len(a) for a in pairs()["en-sw"].shards) * 1.0 / 20 + 4
    share = only["en-sw"] / mean
    assert 30 < share < 80, "80 pairs are planned in all, most of them of the larger side"


def _close(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected) == STEPS
    for one, other in zip(found, expected, strict=True):
        for name in ("loss", "gradient_norm"):
            assert one[name] == pytest.approx(other[name], rel=1e-5), (name, other)
        assert {k for k in one if k.startswith("loss/")} == {k for k in other if k.startswith("loss/")}


def test_loss_and_gradient_of_every_objective_are_the_same_in_any_cut_and_at_every_zero_stage() -> None:
    whole = run(Alone())
    assert {key for record in whole for key in record if key.startswith("loss/")} == {f"loss/{name}" for name in ALL}
    assert all(record["gradient_norm"] > 0 for record in whole)
    _close(run(Alone(), micro_batch=1), whole)
    for zero in (1, 2, 3):
        _close(run(Alone(), zero=zero, micro_batch=2), whole)


@pytest.mark.slow
def test_loss_and_gradient_of_every_objective_are_the_same_at_two_ranks_every_cut_and_every_zero_stage(tmp_path: Path) -> None:
    whole, dropped = run(Alone()), run(Alone(), dropout=0.1)
    for rank in run_gang("tests.training.pairs:suite", 2, {}, tmp_path / "gang")[:1]:
        for name, records in rank.items():
            _close(records, dropped if name == "dropout" else whole)
