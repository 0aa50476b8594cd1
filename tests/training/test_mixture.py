"""The plan of samples: exact shares in every block, whole epochs, and no memory of what was asked before."""

from __future__ import annotations

import itertools
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.mixture import DEFAULT_BLOCK, Mixture, slot_counts, weights_alpha

sizes = st.dictionaries(st.sampled_from(["af", "bn", "cy", "de", "zh-Hant", "no", "sw"]), st.integers(1, 40), min_size=1)

SMALL = Mixture(rows={"sw": 3, "en": 50, "ab": 1}, slots={"ab": 1, "en": 10, "sw": 5}, seed=11)


def as_lists(mixture: Mixture, start: int, stop: int) -> list[tuple[int, int, int]]:
    plan = mixture.samples(start, stop)
    return list(zip(plan.language_N.tolist(), plan.row_N.tolist(), plan.epoch_N.tolist(), strict=True))


def test_every_block_holds_each_language_exactly_its_slots() -> None:
    for block in range(20):
        plan = SMALL.samples(block * SMALL.block, (block + 1) * SMALL.block)
        assert np.bincount(plan.language_N, minlength=3).tolist() == [1, 10, 5]


def test_blocks_are_shuffled_differently() -> None:
    first, second = (SMALL.samples(b * SMALL.block, (b + 1) * SMALL.block).language_N.tolist() for b in (0, 1))
    assert first != second
    assert first != sorted(first)


@given(rows=sizes, seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_each_language_uses_all_its_rows_before_any_comes_again(rows: dict[str, int], seed: int) -> None:
    mixture = Mixture.by_alpha(rows, 0.3, seed, block=max(len(rows), 16))
    plan = mixture.samples(0, 40 * mixture.block)
    for number, language in enumerate(mixture.languages):
        here = plan.language_N == number
        row, epoch = plan.row_N[here], plan.epoch_N[here]
        assert row.min() >= 0
        assert row.max() < rows[language]
        for e in range(int(epoch.max())):  # the last epoch may be unfinished
            assert sorted(row[epoch == e].tolist()) == list(range(rows[language]))
        last = row[epoch == epoch.max()]
        assert len(np.unique(last)) == len(last)


@given(rows=sizes, seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_at_alpha_one_each_epoch_of_the_corpus_has_every_row_once(rows: dict[str, int], seed: int) -> None:
    mixture = Mixture.by_alpha(rows, 1.0, seed)
    total = sum(rows.values())
    assert mixture.block == total
    everything = sorted((number, row) for number, language in enumerate(sorted(rows)) for row in range(rows[language]))
    for epoch in range(3):
        samples = as_lists(mixture, epoch * total, (epoch + 1) * total)
        assert sorted((language, row) for language, row, _ in samples) == everything
        assert {e for _, _, e in samples} == {epoch}


def test_epochs_of_a_language_come_in_different_orders() -> None:
    mixture = Mixture.by_alpha({"en": 30}, 1, seed=5)
    orders = [mixture.samples(e * 30, (e + 1) * 30).row_N.tolist() for e in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]


@given(cuts=st.lists(st.integers(0, 100), max_size=6), start=st.integers(0, 10**15))
@settings(max_examples=60, deadline=None)
def test_any_cut_of_a_range_gives_the_same_samples(cuts: list[int], start: int) -> None:
    borders = [start + border for border in sorted([0, *cuts, 100])]
    parts = [as_lists(SMALL, a, b) for a, b in itertools.pairwise(borders)]
    assert list(itertools.chain(*parts)) == as_lists(SMALL, start, start + 100)


def test_a_fresh_plan_agrees_with_one_already_used() -> None:
    used = Mixture(rows=dict(SMALL.rows), slots=dict(SMALL.slots), seed=SMALL.seed)
    for start in (500, 3, 77):
        used.samples(start, start + 10)
    assert as_lists(used, 40, 90) == as_lists(Mixture(rows=dict(SMALL.rows), slots=dict(SMALL.slots), seed=SMALL.seed), 40, 90)


def test_the_order_of_the_mappings_does_not_matter_and_the_seed_does() -> None:
    turned = Mixture(rows=dict(reversed(SMALL.rows.items())), slots=dict(reversed(SMALL.slots.items())), seed=SMALL.seed)
    assert as_lists(turned, 0, 200) == as_lists(SMALL, 0, 200)
    assert as_lists(Mixture(rows=SMALL.rows, slots=SMALL.slots, seed=12), 0, 200) != as_lists(SMALL, 0, 200)


def test_samples_agree_with_the_definition_written_out() -> None:
    """One sample at a time, with Python integers and the published formula."""
    from pipeline.training.counter import bits, derive, permute

    def one(value: int, size: int, key: int) -> int:
        return int(permute(np.array([value]), size, key)[0])

    languages = sorted(SMALL.rows)
    expected = []
    for g in range(100):
        block, place = divmod(g, SMALL.block)
        slot = one(place, SMALL.block, int(bits(derive(SMALL.seed, "block"), 0, block)))
        number = 0
        while slot >= SMALL.slots[languages[number]]:
            slot -= SMALL.slots[languages[number]]
            number += 1
        language = languages[number]
        epoch, position = divmod(block * SMALL.slots[language] + slot, SMALL.rows[language])
        key = int(bits(derive(SMALL.seed, "rows", language), 0, epoch))
        expected.append((number, one(position, SMALL.rows[language], key), epoch))
    assert as_lists(SMALL, 0, 100) == expected


@pytest.mark.parametrize("alpha", [0, 0.3, 0.5, "0.7", Decimal("0.95"), 1])
def test_weights_follow_the_power_law(alpha: float | str | Decimal) -> None:
    numbers = {"en": 55_608_000_000, "sw": 275_000_000, "ab": 1, "cy": 2}
    weights = weights_alpha(numbers, alpha)
    for language, number in numbers.items():
        assert weights[language] / weights["ab"] == pytest.approx(number ** float(alpha), rel=1e-9)


def test_weights_at_one_are_the_sizes_exactly_and_at_a_half_the_roots() -> None:
    assert weights_alpha({"a": 7, "b": 123_456_789_012_345}, 1) == {"a": 7 * 10**18, "b": 123_456_789_012_345 * 10**18}
    assert weights_alpha({"a": 9, "b": 144}, 0.5) == {"a": 3 * 10**18, "b": 12 * 10**18}


def test_weights_come_in_code_order_whatever_order_they_were_given_in() -> None:
    assert list(weights_alpha({"sw": 1, "de": 2, "no": 3}, 0.3)) == ["de", "no", "sw"]


@given(weights=st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 10**20), min_size=1, max_size=20), data=st.data())
@settings(max_examples=200, deadline=None)
def test_slots_sum_to_the_block_and_stay_within_one_of_the_quota(weights: dict[str, int], data: st.DataObject) -> None:
    block = data.draw(st.integers(len(weights), 3000))
    counts = slot_counts(weights, block)
    assert list(counts) == sorted(weights)
    assert sum(counts.values()) == block
    assert min(counts.values()) >= 1
    shared = {language: weight for language, weight in weights.items() if counts[language] > 1}
    slots = block - (len(weights) - len(shared))
    for language, weight in shared.items():
        # Languages raised to one slot take from the others' quota, so it is an upper bound; a share is never more than one above.
        assert counts[language] <= Fraction(weight * block, sum(weights.values())) + 1
    assert slots >= len(shared)


def test_the_largest_remainders_get_the_slots_left_over() -> None:
    assert slot_counts({"a": 41, "b": 33, "c": 26}, 10) == {"a": 4, "b": 3, "c": 3}
    assert slot_counts({"a": 1, "b": 1, "c": 1}, 4) == {"a": 2, "b": 1, "c": 1}
    assert slot_counts({"a": 1, "b": 1_000_000, "c": 1}, 5) == {"a": 1, "b": 3, "c": 1}


def test_the_default_block_meets_a_hundred_shares_to_within_one_slot() -> None:
    weights = weights_alpha({f"l{number:02}": 1000 * 1.1**number // 1 for number in range(100)}, 0.3)  # type: ignore[arg-type,misc]
    counts = slot_counts(weights, DEFAULT_BLOCK)
    total = sum(weights.values())
    assert all(abs(counts[language] - Fraction(weights[language] * DEFAULT_BLOCK, total)) < 1 for language in weights)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weights_alpha({"sw": 3}, 1.5), "alpha is 1.5; it must lie in 0..1"),
        (lambda: weights_alpha({"sw": 3}, "NaN"), "alpha is NaN"),
        (lambda: weights_alpha({"sw": 0}, 0.3), "sw has 0; leave out"),
        (lambda: weights_alpha({}, 0.3), "no language"),
        (lambda: slot_counts({"a": 1, "b": 1}, 1), "1 slots for 2 languages"),
        (lambda: Mixture(rows={"a": 1}, slots={"b": 1}, seed=0), "a, b has rows but no slots"),
        (lambda: SMALL.samples(5, 4), r"\[5, 4\) is no range"),
        (lambda: SMALL.samples(-1, 4), "is no range"),
    ],
)
def test_wrong_input_is_refused_with_what_was_found(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
