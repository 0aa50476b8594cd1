"""Loss spikes: what counts as one, which data are left out, and that a run which went back is one that never saw them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster import WorkerDied
from pipeline.curve import Curve
from pipeline.errors import StageError
from pipeline.jobs import INDEX, checkpoints, read_skips, rewinds, run_gang
from pipeline.model.masked_lm import masked_lm_loss
from pipeline.retention import Retention
from pipeline.saving import save_checkpoint, start_folder
from pipeline.skips import Rewinding, Skips, merged_without_undone
from pipeline.storage import Storage
from pipeline.training.checkpoint import read_meta
from pipeline.training.engine import Alone
from pipeline.training.loop import train
from pipeline.training.spikes import SpikeRule, Watch, bound_of
from tests.training.cases import Batch, TinyFeed, digest_of, run, settings, tiny_module
from tests.training.conftest import TwoRanks

STEPS, EVERY, LOUD = 24, 4, (13, 14)
REWINDING = Rewinding(2, 3)
RULE = SpikeRule(loss=12.0, window=8)

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=6)


@given(ranges)
def test_updates_take_the_data_steps_that_are_left_in_order(given_ranges: list[tuple[int, int]]) -> None:
    skips = Skips.of(given_ranges)
    out = {step for first, stop in given_ranges for step in range(first, stop)}
    assert [skips.data_step(update) for update in range(50)] == [step for step in range(200) if step not in out][:50]
    assert skips.count == len(out) and Skips.of(reversed(skips.ranges)) == skips


@given(ranges, st.integers(0, 40), st.integers(0, 20))
def test_leaving_out_more_changes_nothing_before_and_leaves_out_what_lay_between(
    given_ranges: list[tuple[int, int]], update: int, more: int
) -> None:
    before = Skips.of(given_ranges)
    after = before.without(update, update + more)
    gone = {before.data_step(number) for number in range(update, update + more + 1)}
    taken = [after.data_step(number) for number in range(80)]
    assert taken == [step for step in (before.data_step(number) for number in range(120)) if step not in gone][:80]
    for number in range(80):
        assert after.agrees(before, number) == (number <= update)


def test_a_range_without_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 3\) is no range"):
        Skips.of([(3, 3)])


def test_of_a_run_that_went_back_twice_the_curve_has_what_was_made_last() -> None:
    def steps(first: int, stop: int, skipped: int, **more: float) -> list[dict[str, float]]:
        return [
            {"step": n, "loss": n + skipped / 100, **({"skipped_steps": skipped} if skipped else {}), **more} for n in range(first, stop)
        ]

    records = [*steps(1, 9, 0, tlm=1.0), *steps(7, 9, 0), *steps(5, 8, 3), *steps(6, 8, 3), *steps(6, 7, 8)]
    found = merged_without_undone(records)
    assert [r["loss"] for r in found] == [1, 2, 3, 4, 5.03, 6.08]
    assert ["tlm" in r for r in found] == [True] * 4 + [False] * 2


def test_a_jump_is_a_spike_and_a_fall_a_slow_rise_or_noise_are_none() -> None:
    watch = Watch(SpikeRule(loss=8.0, window=16))
    falling = [4.0 - 0.01 * n + 0.03 * ((n * 7) % 5 - 2) for n in range(60)]
    assert all(watch.judge(0, None, loss, 1.0) is None for loss in falling)
    assert all(watch.judge(0, None, 3.4 + 0.005 * n, 1.0) is None for n in range(40))
    middle, bound = bound_of([pair[0] for pair in watch.recent["0/"]], 8.0)
    assert watch.judge(0, None, 2.0, 1.0) is None
    assert "is above" in str(watch.judge(0, None, bound + 0.3, 1.0)) and middle < bound < middle + 0.5


def test_a_spike_leaves_its_window_as_it_was_and_a_full_window_is_needed() -> None:
    watch = Watch(SpikeRule(loss=5.0, window=8))
    assert all(watch.judge(0, None, loss, 1.0) is None for loss in (3.0, 90.0, 3.1, 2.9, 3.0, 3.1, 2.9, 3.0))
    before = watch.recent
    assert watch.judge(0, None, 9.0, 1.0) is not None
    assert watch.recent == before and len(before["0/"]) == 8


def test_the_gradient_norm_is_watched_by_itself() -> None:
    watch = Watch(SpikeRule(gradient=6.0, window=8))
    assert all(watch.judge(0, None, 100.0 ** (n % 2), 1.0 + 0.01 * (n % 3)) is None for n in range(12))
    assert "gradient norm" in str(watch.judge(0, None, 1.0, 2.0))


def test_a_value_that_is_no_number_is_a_spike_at_once() -> None:
    watch = Watch(SpikeRule(loss=6.0))
    assert watch.judge(0, None, float("nan"), 1.0) == "loss is nan"
    assert watch.judge(0, None, 1.0, float("inf")) == "gradient norm is inf"


def test_objectives_and_phases_have_windows_of_their_own() -> None:
    watch = Watch(SpikeRule(loss=6.0, gradient=6.0, window=8))
    for n in range(40):  # steps of a contrast of 0.5 nats between those of masked tokens of 5
        assert watch.judge(0, "mlm" if n % 3 else "contrast", 5.0 + 0.02 * (n % 4) if n % 3 else 0.5 + 0.02 * (n % 4), 1.0) is None
    assert "of contrast" in str(watch.judge(0, "contrast", 5.0, 1.0))
    assert watch.judge(1, "mlm", 8.0, 1.0) is None  # another mask rate, another loss
    assert set(watch.recent) == {"1/mlm"}
    again = Watch(watch.rule, watch.recent)
    assert again.recent == watch.recent


@dataclasses.dataclass(frozen=True)
class Without:
    """The tiny feed of a plan that never had some of its rows."""

    feed: TinyFeed
    gone: tuple[int, ...]
    global_batch: int = 8

    def _step(self, step: int) -> int:
        return [own for own in range(200) if own not in self.gone][step]

    def micro_batches(self, step: int, rank: int, world_size: int, micro_batch: int) -> Iterator[Batch]:
        return self.feed.micro_batches(self._step(step), rank, world_size, micro_batch)

    def weight(self, step: int) -> float:
        return self.feed.weight(self._step(step))


class InProcess:
    """A cluster whose gang is this process; what happens when can be told it by start."""

    def __init__(self, feed: Any, storage: Storage, dies: dict[int, int] | None = None, rule: SpikeRule = RULE) -> None:
        self.feed, self.storage, self.dies, self.rule = feed, storage, dies or {}, rule
        self.starts: list[tuple[int, list[list[int]]]] = []
        self.digest = ""
        self.tokens: dict[int, int] = {}
        self.curve = Curve(storage, "spool")

    def launch_gang(
        self, entry: str, argument: dict[str, Any], *, workers: int, name: str, deadline_s: float, on_poll: Callable[[], int]
    ) -> list[Any]:
        """One start: trains from `resume`, and dies after the records of the step that `dies` names for it."""
        resume = None if argument["resume"] is None else start_folder(self.storage, argument["resume"])
        self.starts.append((0 if resume is None else read_meta(resume).step, argument["skips"]))
        last = self.dies.get(len(self.starts), STEPS + 1)

        def watch(records: list[dict[str, float]]) -> None:
            self.curve.append(records)
            if records[-1]["step"] >= last:
                raise WorkerDied("killed")

        module = tiny_module(0.1)
        outcome = train(
            settings(steps=STEPS, learning_rate=1e-3, checkpoint_every=EVERY, log_every=1),
            module,
            self.feed,
            masked_lm_loss,
            Alone(),
            resume_from=resume,
            save=lambda step, engine, meta: save_checkpoint(self.storage, "checkpoints", step, engine, meta, Alone(), keep=Retention(3)),
            watch=watch,
            evaluate=None,
            spikes=self.rule,
            skips=Skips.of(argument["skips"]),
        )
        self.digest, self.tokens = digest_of(module), outcome.tokens_by_language
        spiked = {"step": outcome.steps, "reason": outcome.spiked} if outcome.spiked is not None else None
        return [{"about": {"interrupted": False, "spiked": spiked}}]

    def go(self, rewinding: Rewinding = REWINDING) -> None:
        run_gang(
            self, self.storage, "checkpoints", "", {}, global_batch=8, workers=1, name="spiky-1", max_restarts=2, deadline_s=60,  # type: ignore[arg-type]
            on_poll=lambda: None, fence=lambda: None, curve=self.curve, steps=STEPS, rewinding=rewinding,
        )  # fmt: skip

    def course(self) -> list[list[float]]:
        """What each step of the curve came to, without times."""
        return [[r[key] for key in ("step", "loss", "gradient_norm", "learning_rate", "tokens")] for r in self.curve.merged()]


@pytest.fixture(scope="module")
def never_had_them(tmp_path_factory: pytest.TempPathFactory) -> InProcess:
    """The run whose plan lacks the data from the checkpoint at 4 to the second loud step."""
    clean = InProcess(Without(TinyFeed(loud=LOUD), tuple(range(4, 15))), Storage.at(str(tmp_path_factory.mktemp("clean"))))
    clean.go()
    assert len(clean.starts) == 1
    return clean


def check(spiky: InProcess, clean: InProcess) -> None:
    assert spiky.course() == clean.course()
    assert spiky.digest == clean.digest and spiky.tokens == clean.tokens
    assert read_skips(spiky.storage, "checkpoints").ranges == ((4, 15),)
    last = checkpoints(spiky.storage, "checkpoints")[-1]
    meta = spiky.storage.read_json(f"{last}/{INDEX}")["meta"]
    assert meta["skips"] == [[4, 15]] and meta["next_sample"] == (STEPS + 11) * 8


def test_a_run_goes_back_from_each_spike_and_ends_as_one_that_never_had_the_rows(tmp_path: Path, never_had_them: InProcess) -> None:
    spiky = InProcess(TinyFeed(loud=LOUD), Storage.at(str(tmp_path)))
    spiky.go()
    # The second loud step comes at once after the first skip, too near to the checkpoint at 8.
    assert spiky.starts == [(0, []), (8, [[8, 14]]), (4, [[4, 15]])]
    assert [(each["spike"], each["to"]) for each in rewinds(spiky.storage, "checkpoints")] == [(14, 8), (9, 4)]
    check(spiky, never_had_them)


def test_a_kill_at_any_moment_changes_nothing(tmp_path: Path, never_had_them: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(place: str) -> Callable[[str], None]:
        return lambda passed: (_ for _ in ()).throw(KeyboardInterrupt) if passed == place else None

    monkeypatch.setattr("pipeline.jobs.time.sleep", lambda _: None)
    spiky = InProcess(TinyFeed(loud=LOUD), Storage.at(str(tmp_path)), dies={1: 11, 4: 21})
    for place in ("rewind.after_skips", "rewind.after_index"):
        monkeypatch.setattr("pipeline.jobs.failpoint", failing(place))
        with pytest.raises(KeyboardInterrupt):
            spiky.go()
    monkeypatch.setattr("pipeline.jobs.failpoint", lambda _: None)
    spiky.go()
    assert len(spiky.starts) == 5 and len({tuple(map(tuple, skips)) for _, skips in spiky.starts}) == 3
    check(spiky, never_had_them)


def test_a_run_that_spikes_too_often_fails_and_says_what_to_do(tmp_path: Path) -> None:
    spiky = InProcess(TinyFeed(loud=LOUD), Storage.at(str(tmp_path)))
    with pytest.raises(StageError, match=r"a spike at step 9 .*after going back 1 time\(s\), which is the most; lower learning_rate"):
        spiky.go(Rewinding(2, 1))


def test_a_loss_that_is_no_number_is_gone_back_from_where_spikes_are_watched(tmp_path: Path) -> None:
    spiky = InProcess(TinyFeed(poisoned_step=2), Storage.at(str(tmp_path)))
    spiky.go()
    # No checkpoint so early: from the start, without the first three steps of the data.
    assert spiky.starts == [(0, []), (0, [[0, 3]])]
    assert [record["step"] for record in spiky.curve.merged()] == list(range(1, STEPS + 1))


def test_a_checkpoint_trained_on_data_left_out_since_is_refused(tmp_path: Path) -> None:
    run(Alone(), steps=3, keep=str(tmp_path))
    error = run(Alone(), steps=5, resume_from=str(tmp_path / "3"), skips=Skips.of([(2, 3)]))["error"]
    assert error[0] == "StageError" and "trained with the data steps () left out, this run leaves out ((2, 3),)" in error[1]
    assert run(Alone(), steps=5, resume_from=str(tmp_path / "3"), skips=Skips.of([(3, 4)]))["error"] is None


def test_a_checkpoint_knows_its_window(tmp_path: Path) -> None:
    records = run(Alone(), steps=6, keep=str(tmp_path), spikes=SpikeRule(loss=9.0, window=4))["records"]
    recent = read_meta(tmp_path / "6").recent
    assert recent == {"0/": [[r["loss"], r["gradient_norm"]] for r in records[2:]]}


def test_both_ranks_end_at_a_spike_and_save_nothing(two_ranks: TwoRanks) -> None:
    for result in (two_ranks.rank_0["spiked"], two_ranks.rank_1["spiked"]):
        assert result["outcome"]["steps"] == 9 and "is above" in result["outcome"]["spiked"]
        assert result["saved"] == [8]
    assert [record["step"] for record in two_ranks.rank_0["spiked"]["records"]] == list(range(1, 11))
