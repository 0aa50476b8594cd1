"""A mask rate that changes over the steps of a phase: the line itself, weights that follow it, phases and objectives beside it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.capacity import Machines
from pipeline.model.sizes import SIZES
from pipeline.training.batches import Feed
from pipeline.training.mixing import Mixed
from pipeline.training.objectives.masked import MaskedLanguageModel, Scheduled
from stages.pretrain.feeds import feed_of
from stages.pretrain.planning import _job
from tests.training.pairs import LENGTH, config, pairs, texts
from tests.training.test_batches import CUTS, VOCAB, by_sample

RATES = {"start": 0.5, "end": 0.05}


def feed(name: str, rate: Any, steps: int = 10) -> Feed:
    given = config(objectives={name: 1.0}, phases=[], mask_rate=rate, steps=steps)
    (found,) = feed_of(given, texts(), VOCAB, 5, pairs()).feeds
    assert isinstance(found, Feed)
    return found


@given(start=st.integers(1, 1_000_000), end=st.integers(1, 1_000_000), steps=st.integers(2, 10**7), share=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_the_rate_of_a_step_is_on_the_line_to_the_millionth(start: int, end: int, steps: int, share: float) -> None:
    line = Scheduled(start, end, steps)
    step = round(share * (steps - 1))
    exact = start + Fraction((end - start) * step, steps - 1)
    assert abs(line.at(step).rate_millionths - exact) <= Fraction(1, 2)
    assert (line.at(0).rate_millionths, line.at(steps - 1).rate_millionths, line.at(steps + 5).rate_millionths) == (start, end, end)
    assert Scheduled(start, end, 1).at(0).rate_millionths == start


@pytest.mark.parametrize("name", ["mlm", "tlm"])
def test_the_first_and_the_last_step_are_those_of_fixed_rates_and_the_weight_is_what_each_step_holds(name: str) -> None:
    found, first, last = feed(name, RATES), feed(name, 0.5), feed(name, 0.05)
    weights = []
    for step in range(10):
        parts = [by_sample([b for rank in range(ranks) for b in found.micro_batches(step, rank, ranks, micro)]) for ranks, micro, _ in CUTS]
        assert all(part == parts[0] for part in parts[1:])
        weights.append(found.weight(step))
        assert weights[-1] == sum(len(row[3]) for row in parts[0].values())
    assert weights[0] == first.weight(0) > weights[5] > weights[-1] == last.weight(9)
    for step, fixed in ((0, first), (9, last)):
        assert by_sample(list(found.micro_batches(step, 0, 1, 8))) == by_sample(list(fixed.micro_batches(step, 0, 1, 8)))


def test_each_phase_has_its_line_or_its_number() -> None:
    phases = [{"share": 0.5, "mask_rate": {"start": 0.9, "end": 0.4}}, {"share": 0.5}]
    line, plain = feed_of(config(steps=80, phases=phases, objectives={"mlm": 1.0}, mask_rate=0.2), texts(), VOCAB, 5, pairs()).feeds
    assert isinstance(line, Feed) and isinstance(plain, Feed)
    assert line.objective == Scheduled(900_000, 400_000, 40) and plain.objective == MaskedLanguageModel(200_000)


def test_each_of_several_objectives_has_the_line_over_its_own_steps() -> None:
    given = config(steps=80, phases=[], objectives={"mlm": 0.7, "tlm": 0.2, "clm": 0.1}, mask_rate=RATES)
    (mixed,) = feed_of(given, texts(), VOCAB, 5, pairs()).feeds
    assert isinstance(mixed, Mixed)
    rates: dict[str, list[int]] = {"mlm": [], "tlm": []}
    for step in range(80):
        name, own = mixed.turn(step)
        if name in rates:
            rates[name].append(mixed.feeds[name].objective.at(own).rate_millionths)  # type: ignore[attr-defined]
    for name, share in (("mlm", 0.7), ("tlm", 0.2)):
        assert len(rates[name]) == round(80 * share)
        assert rates[name] == sorted(rates[name], reverse=True) and (rates[name][0], rates[name][-1]) == (500_000, 50_000)


def test_a_line_is_refused_where_nothing_is_hidden() -> None:
    for changes in ({"mask_rate": RATES}, {"phases": [{"share": 1.0, "mask_rate": RATES}]}):
        with pytest.raises(ValidationError, match=r"mask_rate from 0\.5 to 0\.05 has no effect on clm"):
            config(**({"phases": []} | changes), objectives={"clm": 1.0})


def test_equal_ends_are_the_number_itself() -> None:
    assert feed("mlm", {"start": 0.3, "end": 0.3}).objective == feed("mlm", 0.3).objective == MaskedLanguageModel(300_000)


def test_the_planner_takes_the_largest_rate() -> None:
    one = Machines(gpus=0)
    found = [
        _job(config(objectives={"mlm": 1.0}, phases=[], mask_rate=rate), one, SIZES["tiny"], "xlm-r", VOCAB, LENGTH, 0).predicted
        for rate in (RATES, 0.5, 0.05)
    ]
    assert found[0] == found[1] > found[2]


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ({"start": 0.3}, r"mask_rate.*end\s+Field required"),
        ({"start": 1.3, "end": 0.1}, r"start\s+Input should be less than 1"),
        (0.0, r"mask_rate.*\s+Input should be greater than 0"),
    ],
)
def test_impossible_rates_are_refused(rate: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(mask_rate=rate)
    with pytest.raises(ValidationError, match=message):
        config(phases=[{"share": 1.0, "mask_rate": rate}])
