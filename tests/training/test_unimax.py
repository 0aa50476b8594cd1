"""UniMax and training in phases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.phases import Phased, first_steps
from pipeline.training.unimax import weights_unimax


def test_a_budget_that_all_can_fill_is_shared_alike() -> None:
    assert weights_unimax({"en": 1_000, "sw": 100}, 150, 1) == {"en": 75_000_000, "sw": 75_000_000}


def test_a_small_language_stops_at_its_epochs_and_the_others_take_the_rest() -> None:
    assert weights_unimax({"en": 1_000, "fr": 500, "sw": 10}, 1_000, 4) == {"en": 480_000_000, "fr": 480_000_000, "sw": 40_000_000}


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 10**6), min_size=1), st.integers(1, 10**9), st.integers(1, 20)
)
@settings(deadline=None)
def test_no_language_is_repeated_more_often_and_none_that_could_take_more_has_less_than_another(
    sizes: dict[str, int], budget: int, epochs: int
) -> None:
    got = weights_unimax(sizes, budget, epochs)
    assert list(got) == sorted(sizes)
    assert sum(got.values()) <= budget * 1_000_000 + len(sizes)
    assert all(got[lang] <= sizes[lang] * epochs * 1_000_000 for lang in sizes)
    free = [got[lang] for lang in sizes if got[lang] < sizes[lang] * epochs * 1_000_000]
    assert not free or max(got.values()) <= max(free)
    assert not free or max(free) - min(free) <= 1


@pytest.mark.parametrize(("sizes", "budget", "epochs"), [({}, 1, 1), ({"en": 0}, 1, 1), ({"en": 1}, 0, 1), ({"en": 1}, 1, 0)])
def test_nothing_to_share_is_refused(sizes: dict[str, int], budget: int, epochs: float) -> None:
    with pytest.raises(ValueError, match="weights_unimax"):
        weights_unimax(sizes, budget, epochs)


@dataclass(frozen=True)
class Fake:
    name: str
    global_batch: int = 4

    def micro_batches(self, step: int, rank: int, world_size: int, micro_batch: int) -> Iterator[str]:
        yield f"{self.name}{step}"

    def weight(self, step: int) -> float:
        return step


def test_each_step_falls_into_one_phase_which_counts_its_own_steps() -> None:
    starts = first_steps([0.5, 0.3, 0.2], 10)
    phased = Phased((Fake("a"), Fake("b"), Fake("c")), tuple(starts))  # type: ignore[arg-type]
    assert starts == [0, 5, 8]
    assert [next(iter(phased.micro_batches(step, 0, 1, 4))) for step in range(10)] == [
        "a0",
        "a1",
        "a2",
        "a3",
        "a4",
        "b0",
        "b1",
        "b2",
        "c0",
        "c1",
    ]
    assert [phased.weight(step) for step in (4, 5, 9)] == [4, 0, 1]


@pytest.mark.parametrize(("shares", "steps"), [([], 10), ([0.5], 10), ([0.5, 0.6], 10), ([1.0, 0.0], 10), ([0.01, 0.99], 10)])
def test_phases_that_do_not_fill_the_run_are_refused(shares: list[float], steps: int) -> None:
    with pytest.raises(ValueError, match="phases"):
        first_steps(shares, steps)
