"""MLM masks: exact counts, the 80/10/10 shares, no special token touched, and nothing but (seed, sample, place) decides."""

from __future__ import annotations

import importlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.counter import bits, derive
from pipeline.training.objectives import OBJECTIVES
from pipeline.training.objectives.masked import Masked, held_out_mask, mask, masked_count

VOCAB = 1000
MASK = VOCAB - 1


def batch(seed: int, rows: int = 6, length: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Rows with <s>, </s> in the middle and at the end, an <unk>, and padding."""
    random = np.random.default_rng(seed)
    lengths = random.integers(5, length + 1, rows)
    ids = random.integers(4, MASK, (rows, length))
    ids[:, 0] = 0
    ids[:, 2] = 3
    for row, used in enumerate(lengths):
        ids[row, used // 2 + 1] = 2
        ids[row, used - 1] = 2
        ids[row, used:] = 1
    return ids, lengths


def chosen_by_row(masked: Masked, rows: int, length: int) -> list[list[tuple[int, int]]]:
    """(place, label) of each row's predictions."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(rows)]
    for index, label, weight in zip(masked.masked_index_M.tolist(), masked.labels_M.tolist(), masked.weights_M.tolist(), strict=True):
        if weight:
            found[index // length].append((index % length, label))
    return found


@given(seed=st.integers(0, 2**32), rate=st.integers(1, 1_000_000))
@settings(max_examples=80, deadline=None)
def test_each_row_has_exactly_its_count_of_ordinary_tokens_chosen(seed: int, rate: int) -> None:
    ids, lengths = batch(seed)
    masked = mask(ids, lengths, np.arange(6), seed=seed, vocab_size=VOCAB, rate_millionths=rate)
    for row, chosen in enumerate(chosen_by_row(masked, *ids.shape)):
        ordinary = int((ids[row] > 2).sum())
        exact = Fraction(rate * ordinary, 10**6)
        assert len(chosen) == min(ordinary, max(1, int(exact + Fraction(1, 2))))
        places = [place for place, _ in chosen]
        assert places == sorted(set(places))
        assert all(ids[row, place] > 2 for place in places)
        assert all(label == ids[row, place] for place, label in chosen)
        untouched = np.setdiff1d(np.arange(ids.shape[1]), places)
        assert np.array_equal(masked.input_ids_BT[row, untouched], ids[row, untouched])
    assert masked.input_ids_BT.max() <= MASK


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_row_has_the_same_masks_whatever_the_batch(seed: int) -> None:
    ids, lengths = batch(seed)
    samples = np.array([10**12, 5, 6, 7, 8, 0])
    together = mask(ids, lengths, samples, seed=1, vocab_size=VOCAB)
    order = np.random.default_rng(seed).permutation(6)[:4]
    shuffled = mask(ids[order], lengths[order], samples[order], seed=1, vocab_size=VOCAB)
    assert np.array_equal(shuffled.input_ids_BT, together.input_ids_BT[order])
    all_chosen = chosen_by_row(together, *ids.shape)
    assert chosen_by_row(shuffled, 4, ids.shape[1]) == [all_chosen[row] for row in order]
    trimmed = mask(ids[:, : lengths.max()], lengths, samples, seed=1, vocab_size=VOCAB)
    assert chosen_by_row(trimmed, 6, int(lengths.max())) == all_chosen


def written_out(
    ids: np.ndarray, lengths: np.ndarray, samples: list[int], seed: int, rate: int, tenths: tuple[int, int], name: str
) -> tuple:
    """Inputs, and (place, label) of each row's predictions, one token at a time with the published formula."""
    key, inputs, chosen = derive(seed, name), ids.tolist(), []
    for row, (own, used, sample) in enumerate(zip(ids.tolist(), lengths.tolist(), samples, strict=True)):
        hashes = sorted((int(bits(key, 0, sample, place)), place) for place in range(used) if own[place] > 2)
        count = min(max((len(hashes) * rate + 500_000) // 1_000_000, 1), len(hashes))
        places = sorted(place for _, place in hashes[:count])
        chosen.append([(place, own[place]) for place in places])
        for place in places:
            tenth = int(bits(key, 1, sample, place)) % 10
            if tenth < tenths[0]:
                inputs[row][place] = MASK
            elif tenth < tenths[1]:
                inputs[row][place] = 4 + int(bits(key, 2, sample, place)) % (MASK - 4)
    return inputs, chosen


@given(seed=st.integers(0, 2**32), rate=st.integers(1, 1_000_000), length=st.integers(5, 300))
@settings(max_examples=25, deadline=None)
def test_masks_are_those_of_the_definition_written_out(seed: int, rate: int, length: int) -> None:
    ids, lengths = batch(seed, rows=3, length=length)
    samples = [seed, 2**40 + 7, 0]
    masked = mask(ids, lengths, np.array(samples), seed=seed, vocab_size=VOCAB, rate_millionths=rate)
    inputs, chosen = written_out(ids, lengths, samples, seed, rate, (8, 9), "mlm")
    assert masked.input_ids_BT.tolist() == inputs
    assert chosen_by_row(masked, *ids.shape) == chosen
    held_out = held_out_mask(ids, lengths, np.array(samples), vocab_size=VOCAB, seed=seed)
    inputs, chosen = written_out(ids, lengths, samples, seed, 150_000, (10, 10), "held-out")
    assert held_out.input_ids_BT.tolist() == inputs
    assert chosen_by_row(held_out, *ids.shape) == chosen


def test_another_seed_or_sample_gives_other_masks() -> None:
    ids = np.tile(np.concatenate(([0], np.arange(4, 402), [2])), (2, 1))
    lengths = np.array([400, 400])
    first = chosen_by_row(mask(ids, lengths, np.array([0, 1]), seed=1, vocab_size=VOCAB), 2, 400)
    second = chosen_by_row(mask(ids, lengths, np.array([0, 1]), seed=2, vocab_size=VOCAB), 2, 400)
    assert first[0] != first[1]
    assert first[0] != second[0]


def test_shares_are_80_10_10_and_random_ids_and_places_are_uniform() -> None:
    rows, length, vocab = 2000, 102, 20_000
    ids = np.full((rows, length), 5)
    ids[:, 0], ids[:, -1] = 0, 2
    masked = mask(ids, np.full(rows, length), np.arange(rows), seed=4, vocab_size=vocab)
    seen = masked.input_ids_BT.reshape(-1)[masked.masked_index_M[masked.weights_M > 0]]
    total = len(seen)
    assert total == rows * 15
    tolerance = 5 * np.sqrt(0.25 / total)
    assert abs((seen == vocab - 1).mean() - 0.8) < tolerance
    assert abs((seen == 5).mean() - 0.1) < tolerance
    changed = seen[(seen != vocab - 1) & (seen != 5)]
    assert abs(len(changed) / total - 0.1) < tolerance
    assert changed.min() >= 4
    assert changed.max() <= vocab - 2
    assert abs(changed.mean() / ((4 + vocab - 2) / 2) - 1) < 0.05
    places = np.bincount(masked.masked_index_M[masked.weights_M > 0] % length, minlength=length)[1:-1]
    expected = total / len(places)
    assert ((places - expected) ** 2 / expected).sum() < 99 + 5 * np.sqrt(2 * 99)


def test_every_ordinary_id_can_be_drawn_and_no_other() -> None:
    ids = np.full((400, 34), 4)
    ids[:, 0], ids[:, -1] = 0, 2
    masked = mask(ids, np.full(400, 34), np.arange(400), seed=0, vocab_size=9, rate_millionths=1_000_000)
    assert set(np.unique(masked.input_ids_BT[:, 1:-1]).tolist()) == {4, 5, 6, 7, 8}


def test_the_number_of_places_is_static_and_unused_ones_weigh_nothing() -> None:
    shapes = set()
    for seed in range(5):
        ids, lengths = batch(seed)
        masked = mask(ids, lengths, np.arange(6), seed=0, vocab_size=VOCAB)
        shapes.add(masked.labels_M.shape)
        unused = masked.weights_M == 0
        assert unused.any()
        assert not masked.masked_index_M[unused].any()
        assert not masked.labels_M[unused].any()
    assert shapes == {(6 * int(masked_count(40, 2)),)}


def test_a_row_with_nothing_to_mask_is_left_alone() -> None:
    ids = np.array([[0, 2, 1, 1, 1, 1], [0, 9, 2, 1, 1, 1]])
    masked = mask(ids, np.array([2, 3]), np.array([0, 1]), seed=0, vocab_size=VOCAB)
    assert chosen_by_row(masked, 2, 6) == [[], [(1, 9)]]
    assert np.array_equal(masked.input_ids_BT[0], ids[0])


def test_the_ids_given_are_not_changed() -> None:
    ids, lengths = batch(1)
    before = ids.copy()
    mask(ids, lengths, np.arange(6), seed=0, vocab_size=VOCAB, rate_millionths=1_000_000)
    assert np.array_equal(ids, before)


def test_held_out_masks_hide_every_chosen_token_at_15_percent() -> None:
    ids, lengths = batch(8)
    masked = held_out_mask(ids, lengths, np.arange(6), vocab_size=VOCAB)
    used = masked.weights_M > 0
    assert used.sum() == sum(int(masked_count((row > 2).sum(), 0)) for row in ids)
    assert set(masked.input_ids_BT.reshape(-1)[masked.masked_index_M[used]].tolist()) == {MASK}
    again = held_out_mask(ids, lengths, np.arange(6), vocab_size=VOCAB)
    assert np.array_equal(again.masked_index_M, masked.masked_index_M)


@pytest.mark.parametrize(
    ("length", "special", "expected"), [(2, 2, 0), (3, 2, 1), (11, 1, 2), (12, 2, 2), (512, 2, 77), (514, 12, 75), (5, 2, 1)]
)
def test_counts_round_half_up_and_are_at_least_one(length: int, special: int, expected: int) -> None:
    assert int(masked_count(length, special)) == expected
    assert masked_count(np.array([length]), np.array([special])).tolist() == [expected]


@pytest.mark.parametrize(
    ("vocab", "rate", "message"), [(5, 150_000, "a vocabulary of 5 has no ordinary id"), (9, 0, "rate is 0"), (9, 1_000_001, "1..1000000")]
)
def test_impossible_settings_are_refused(vocab: int, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask(np.array([[0, 4, 2]]), np.array([3]), np.array([0]), seed=0, vocab_size=vocab, rate_millionths=rate)


def test_every_registered_objective_on_tokens_can_be_made_and_keeps_its_word_about_counts() -> None:
    for name, module in OBJECTIVES.items():
        if name in ("contrast", "nsp"):  # they predict no token; `test_contrast` and `test_next_sentence` have their tests
            continue
        objective = importlib.import_module(module).objective()
        ids, lengths = batch(2)
        masked = objective.apply(ids, lengths, np.arange(6), seed=0, vocab_size=VOCAB)
        special = ((ids <= 2) & (ids != 1)).sum(axis=1)
        assert masked.weights_M.sum() == objective.counts(lengths, special).sum() > 0
