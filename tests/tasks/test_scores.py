"""Scores agree with scikit-learn, intervals with a plain bootstrap, and equal predictions give equal figures everywhere."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tasks.scores import UNITS, Baseline, Estimate, constant_predictions, majority, score
from pipeline.training.counter import bits, derive

labels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


def predictions(seed: int, size: int, right: float, num_labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    gold = random.integers(0, num_labels, size)
    return gold, np.where(random.random(size) < right, gold, random.integers(0, num_labels, size))


@given(pairs=labels)
@settings(max_examples=60, deadline=None)
def test_accuracy_and_macro_f1_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn, which mlflow brings, is not installed")
    gold, predicted = np.array(pairs).T
    found = score(gold, predicted, ["en"] * len(pairs), resamples=2).languages["en"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels without predictions
        f1 = metrics.f1_score(gold, predicted, labels=np.unique(gold), average="macro", zero_division=0)
    assert abs(found.accuracy.value / UNITS - metrics.accuracy_score(gold, predicted)) <= 0.5001 / UNITS
    assert abs(found.macro_f1.value / UNITS - f1) <= 0.5001 / UNITS


def test_figures_are_rounded_half_up_to_a_ten_thousandth() -> None:
    gold = np.zeros(20_000, dtype=int)
    predicted = np.ones(20_000, dtype=int)
    predicted[:1] = 0  # 0.00005
    assert score(gold, predicted, ["en"] * 20_000, resamples=1).languages["en"].accuracy.value == 1


def test_intervals_are_those_of_a_plain_bootstrap() -> None:
    """The same draws, one resample at a time, with fractions."""
    gold, predicted = predictions(1, 37, 0.6)
    found = score(gold, predicted, ["sw"] * 37, seed=9, resamples=200).languages["sw"]
    key = derive(9, "bootstrap", "sw")
    accuracies, f1s = [], []
    for resample in range(200):
        drawn = [int(bits(key, 0, resample, place)) % 37 for place in range(37)]
        g, p = gold[drawn], predicted[drawn]
        accuracies.append(Fraction(int((g == p).sum()), 37))
        per_label = [Fraction(2 * int(((g == c) & (p == c)).sum()), int((g == c).sum() + (p == c).sum())) for c in np.unique(g)]
        f1s.append(sum(per_label) / len(per_label))
    f1 = Fraction(found.macro_f1.value, UNITS)
    middle = sorted(f1s)[100]
    centred = [min(Fraction(1), max(Fraction(0), value + f1 - middle)) for value in f1s]
    for values, estimate in ((accuracies, found.accuracy), (centred, found.macro_f1)):
        values.sort()
        assert abs(estimate.low - values[5] * UNITS) <= 1
        assert abs(estimate.high - values[194] * UNITS) <= 1


def test_the_interval_of_macro_f1_holds_the_figure_even_with_few_examples_a_label() -> None:
    rng = np.random.default_rng(3)
    gold = rng.integers(0, 30, 50)
    predicted = np.where(rng.random(50) < 0.1, gold, rng.integers(0, 30, 50))
    found = score(gold, predicted, ["sw"] * 50).languages["sw"].macro_f1
    assert found.low <= found.value <= found.high


def test_an_interval_of_accuracy_is_as_wide_as_the_binomial_says() -> None:
    gold, predicted = predictions(2, 1000, 0.6)
    found = score(gold, predicted, ["en"] * 1000).languages["en"].accuracy
    rate = found.value / UNITS
    expected = 2 * 1.96 * np.sqrt(rate * (1 - rate) / 1000)
    assert abs((found.high - found.low) / UNITS / expected - 1) < 0.15
    assert found.low < found.value < found.high


def test_about_95_of_100_intervals_hold_the_true_accuracy() -> None:
    true = 0.5 + 0.5 / 4
    held = 0
    for seed in range(200):
        gold, predicted = predictions(seed, 200, 0.5)
        found = score(gold, predicted, ["en"] * 200, seed=seed, resamples=300).languages["en"].accuracy
        held += found.low <= true * UNITS <= found.high
    assert 178 <= held <= 199


def test_the_mean_over_languages_weighs_each_the_same_and_has_the_narrower_interval() -> None:
    parts = {"en": predictions(1, 300, 0.9), "sw": predictions(2, 60, 0.4), "yo": predictions(3, 60, 0.3)}
    gold, predicted = (np.concatenate([part[i] for part in parts.values()]) for i in (0, 1))
    codes = [code for code, part in parts.items() for _ in part[0]]
    found = score(gold, predicted, codes, groups={"all": ["yo", "en", "sw"], "zero-shot": ["sw", "yo"]})
    assert list(found.languages) == ["en", "sw", "yo"]
    assert list(found.groups) == ["all", "zero-shot"]
    assert (found.groups["zero-shot"].num_languages, found.groups["zero-shot"].num_examples) == (2, 120)
    for group, members in (("all", ["en", "sw", "yo"]), ("zero-shot", ["sw", "yo"])):
        mean = sum(Fraction(int((g == p).sum()), len(g)) for g, p in (parts[m] for m in members)) / len(members)
        assert abs(found.groups[group].accuracy.value - mean * UNITS) <= Fraction(51, 100)
    width = {code: s.accuracy.high - s.accuracy.low for code, s in found.languages.items()}
    zero_shot = found.groups["zero-shot"].accuracy
    expected = np.sqrt(width["sw"] ** 2 + width["yo"] ** 2) / 2  # independent within languages
    assert abs((zero_shot.high - zero_shot.low) / expected - 1) < 0.2


def test_scores_do_not_depend_on_the_order_of_languages_or_on_which_others_there_are() -> None:
    first, second = predictions(1, 50, 0.5), predictions(2, 40, 0.5)
    gold, predicted = np.concatenate((first[0], second[0])), np.concatenate((first[1], second[1]))
    forward = score(gold, predicted, ["sw"] * 50 + ["en"] * 40)
    backward = score(np.roll(gold, 40), np.roll(predicted, 40), ["en"] * 40 + ["sw"] * 50)
    assert forward == backward
    assert score(*first, ["sw"] * 50).languages["sw"] == forward.languages["sw"]
    assert score(*first, ["sw"] * 50, seed=1).languages["sw"].accuracy != forward.languages["sw"].accuracy


def test_perfect_and_hopeless_predictions_have_intervals_of_no_width() -> None:
    gold = np.array([0, 1, 2, 1])
    assert score(gold, gold, ["en"] * 4).groups["all"].macro_f1 == Estimate(UNITS, UNITS, UNITS)
    assert score(gold, (gold + 1) % 3, ["en"] * 4).groups["all"].accuracy == Estimate(0, 0, 0)


def test_an_estimate_reads_as_a_figure_with_its_interval() -> None:
    assert str(Estimate(4321, 4001, 10_000)) == "0.4321 [0.4001, 1.0000]"


def test_constant_baselines_take_the_training_majority_or_each_languages_own() -> None:
    train = np.array([2, 2, 1, 0])
    gold = np.array([1, 1, 2, 0, 0, 1])
    codes = ["en", "en", "en", "sw", "sw", "sw"]
    by_train = constant_predictions(Baseline.TRAIN_MAJORITY, train_labels=train, gold_E=gold, languages=codes)
    by_test = constant_predictions(Baseline.TEST_MAJORITY, train_labels=train, gold_E=gold, languages=codes)
    assert by_train.tolist() == [2] * 6
    assert by_test.tolist() == [1, 1, 1, 0, 0, 0]
    accuracy = {name: s.accuracy.value for name, s in score(gold, by_test, codes).languages.items()}
    assert accuracy == {"en": 6667, "sw": 6667}
    assert score(gold, by_train, codes).groups["all"].accuracy.value == 1667


def test_of_equally_frequent_labels_the_smallest_is_the_majority() -> None:
    assert majority(np.array([3, 1, 3, 1, 0])) == 1
    with pytest.raises(ValueError, match="no label"):
        majority(np.array([], dtype=int))


def test_large_tests_are_resampled_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    gold, predicted = predictions(5, 80, 0.5)
    whole = score(gold, predicted, ["en"] * 80, resamples=101)
    monkeypatch.setattr("pipeline.tasks.scores._CHUNK", 700)
    assert score(gold, predicted, ["en"] * 80, resamples=101) == whole


@pytest.mark.parametrize(
    ("gold", "predicted", "codes", "options", "message"),
    [
        ([0, 1], [0], ["en", "en"], {}, "2 labels, 1 predictions, 2 languages"),
        ([], [], [], {}, "no example"),
        ([0, -1], [0, 1], ["en", "en"], {}, "a label is negative"),
        ([0], [0], ["en"], {"resamples": 0}, "0 resamples"),
        ([0], [0], ["en"], {"groups": {"rest": []}}, "group 'rest' is empty"),
        ([0], [0], ["en"], {"groups": {"rest": ["sw", "en", "af"]}}, "group 'rest' names af, sw without examples"),
    ],
)
def test_wrong_input_is_refused_with_what_was_found(gold, predicted, codes, options, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        score(np.array(gold, dtype=int), np.array(predicted, dtype=int), codes, **options)
