"""Scores of predictions with their uncertainty: accuracy and macro-F1 per language, means over languages, constant baselines.

    gold, predicted, language of each example
      ──▶ per language: counts of (gold, predicted) ──▶ accuracy, macro-F1
      ──▶ 1,000 resamples of the language's examples, with replacement ──▶ 95% interval of each
      ──▶ mean over the languages of a group; its interval from the means of the languages' resamples

Scoring is an exact stage: integers throughout. A rate is held in 10⁻⁹ and given in 1/10,000, both rounded half up, and the
resamples come from the counter generator, so equal predictions give equal bytes everywhere.

The interval is the percentile bootstrap (Efron 1979): the 2.5% and 97.5% order statistics. It holds the languages fixed: it
says how the mean would vary with other test texts in these languages, not with other languages. With a handful of
examples it is too narrow.

Legend: E examples, C labels, X resamples, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from pipeline.training.counter import bits, derive

I64 = npt.NDArray[np.int64]
Indices = npt.NDArray[np.integer]

UNITS = 10_000
"""Figures are given in 1/10,000."""
RESAMPLES = 1_000
"""Resamples of an interval, by default."""

_RATE = 10**9  # 4·examples·rate, the largest number met, stays below 2^63 up to 2·10^9 examples
_CHUNK = 1 << 20  # examples drawn at a time: 8 MiB for each array of them


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval, each in 1/10,000."""

    value: int
    """The figure itself."""
    low: int
    """2.5% of the resamples lie below."""
    high: int
    """2.5% of the resamples lie above."""

    def __str__(self) -> str:
        return f"{self.value / UNITS:.4f} [{self.low / UNITS:.4f}, {self.high / UNITS:.4f}]"


@dataclass(frozen=True)
class Score:
    """The figures of one language, or their means over the languages of a group."""

    num_examples: int
    """Examples in all."""
    num_languages: int
    """Languages; 1 for one language's own score."""
    accuracy: Estimate
    """Share of the examples predicted right."""
    macro_f1: Estimate
    """Mean of F1 over the labels that occur in gold."""


@dataclass(frozen=True)
class Scores:
    """Figures per language and per group of languages, sorted by name."""

    languages: dict[str, Score]
    """By language code."""
    groups: dict[str, Score]
    """Means over languages, each language weighing the same."""


class Baseline(StrEnum):
    """What a constant prediction is taken from."""

    TRAIN_MAJORITY = "train-majority"
    """The most frequent label of the training examples: what can be had without reading a text."""
    TEST_MAJORITY = "test-majority"
    """The most frequent label of each language's own test examples: the best that any constant can do there."""


def score(
    gold_E: Indices,
    predicted_E: Indices,
    languages: Sequence[str],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Scores:
    """Score predictions.

    gold_E, predicted_E: label numbers. languages: [E] code of each example. groups: name → languages to take the mean over
    (for example those not trained on); `{"all": every language}` when None. seed: chooses the resamples; a language's
    depend on its code and its examples' order only.

    Raises:
        ValueError: no example, lengths that differ, a negative label, no resample, a group that is empty or names a
            language without examples.
    """
    gold_E, predicted_E = np.asarray(gold_E, dtype=np.int64), np.asarray(predicted_E, dtype=np.int64)
    if not len(gold_E) == len(predicted_E) == len(languages):
        raise ValueError(f"score: {len(gold_E)} labels, {len(predicted_E)} predictions, {len(languages)} languages; one of each an example")
    if not len(gold_E):
        raise ValueError("score: no example; give at least one")
    if min(int(gold_E.min()), int(predicted_E.min())) < 0:
        raise ValueError("score: a label is negative; labels count from 0")
    if resamples < 1:
        raise ValueError(f"score: {resamples} resamples; at least 1 is needed, {RESAMPLES} are usual")
    codes_E = np.asarray(languages, dtype=np.str_)
    names = [str(name) for name in np.unique(codes_E)]
    groups = {"all": names} if groups is None else groups
    for group, members in groups.items():
        missing = sorted(set(members) - set(names))
        if missing or not members:
            raise ValueError(f"score: group {group!r} {'names ' + ', '.join(missing) + ' without examples' if missing else 'is empty'}")

    num_labels = 1 + max(int(gold_E.max()), int(predicted_E.max()))
    rates: dict[str, tuple[I64, I64]] = {}
    counts: dict[str, int] = {}
    for name in names:
        here_E = codes_E == name
        rates[name] = _rates(gold_E[here_E], predicted_E[here_E], num_labels, derive(seed, "bootstrap", name), resamples)
        counts[name] = int(here_E.sum())
    return Scores(
        languages={name: _score([name], rates, counts) for name in names},
        groups={group: _score(sorted(set(groups[group])), rates, counts) for group in sorted(groups)},
    )


def majority(labels: Indices) -> int:
    """The most frequent label; of equally frequent ones the smallest.

    Raises:
        ValueError: no label.
    """
    labels = np.asarray(labels, dtype=np.int64)
    if not labels.size:
        raise ValueError("majority: no label; give at least one")
    return int(np.argmax(np.bincount(labels)))


def constant_predictions(baseline: Baseline, *, train_labels: Indices, gold_E: Indices, languages: Sequence[str]) -> I64:
    """[E] what the baseline predicts; scored by `score` like any other predictions.

    Raises:
        ValueError: no training label (for TRAIN_MAJORITY).
    """
    gold_E = np.asarray(gold_E, dtype=np.int64)
    if baseline is Baseline.TRAIN_MAJORITY:
        return np.full(len(gold_E), majority(train_labels), dtype=np.int64)
    predicted_E = np.zeros(len(gold_E), dtype=np.int64)
    codes_E = np.asarray(languages, dtype=np.str_)
    for name in np.unique(codes_E):
        predicted_E[codes_E == name] = majority(gold_E[codes_E == name])
    return predicted_E


def _rates(gold_E: I64, predicted_E: I64, num_labels: int, key: int, resamples: int) -> tuple[I64, I64]:
    """Accuracy and macro-F1 in 10⁻⁹, [1 + X] each: of the examples themselves, then of each resample."""
    cells = num_labels * num_labels
    cell_E = gold_E * num_labels + predicted_E
    size = len(cell_E)
    parts = [_figures(np.bincount(cell_E, minlength=cells).reshape(1, num_labels, num_labels))]
    at_once = max(1, _CHUNK // max(size, cells))
    for first in range(0, resamples, at_once):
        number_X = np.arange(first, min(resamples, first + at_once), dtype=np.int64)
        drawn_XE = (bits(key, 0, number_X[:, None], np.arange(size)) % np.uint64(size)).astype(np.int64)
        flat_XE = cell_E[drawn_XE] + (np.arange(len(number_X)) * cells)[:, None]
        confusion = np.bincount(flat_XE.reshape(-1), minlength=len(number_X) * cells)
        parts.append(_figures(confusion.reshape(-1, num_labels, num_labels)))
    return np.concatenate([accuracy_X for accuracy_X, _ in parts]), np.concatenate([macro_f1_X for _, macro_f1_X in parts])


def _figures(confusion_XCC: I64) -> tuple[I64, I64]:
    """Accuracy and macro-F1 in 10⁻⁹, [X] each, from counts of (gold, predicted)."""
    right_XC = np.diagonal(confusion_XCC, axis1=1, axis2=2)
    gold_XC, predicted_XC = confusion_XCC.sum(axis=2), confusion_XCC.sum(axis=1)
    accuracy_X = _divide(right_XC.sum(axis=1) * _RATE, gold_XC.sum(axis=1))
    # F1 = 2·right / (gold + predicted); a label that a resample's gold lacks adds 0 here and is not counted below.
    f1_XC = _divide(2 * right_XC * _RATE, np.maximum(gold_XC + predicted_XC, 1))
    return accuracy_X, _divide(f1_XC.sum(axis=1), (gold_XC > 0).sum(axis=1))


def _score(names: Sequence[str], rates: Mapping[str, tuple[I64, I64]], counts: Mapping[str, int]) -> Score:
    accuracy_X, macro_f1_X = (_divide(np.stack([rates[name][i] for name in names]).sum(axis=0), np.int64(len(names))) for i in (0, 1))
    return Score(
        num_examples=sum(counts[name] for name in names),
        num_languages=len(names),
        accuracy=_estimate(accuracy_X),
        macro_f1=_estimate(_centred(macro_f1_X)),
    )


def _centred(rates_X: I64) -> I64:
    """Resamples shifted so that their median is the figure.

    A resample lacks some labels, and the mean F1 over those it has is biased by as much; the shift takes that out of the interval
    (Efron & Tibshirani 1993, chapter 10), which otherwise need not hold the figure where a label has a few examples.
    """
    sorted_X = np.sort(rates_X[1:])
    median = sorted_X[len(sorted_X) // 2]
    return np.concatenate((rates_X[:1], np.clip(rates_X[1:] + rates_X[0] - median, 0, _RATE)))


def _estimate(rates_X: I64) -> Estimate:
    """The figure comes first, its resamples after it."""
    sorted_X = np.sort(rates_X[1:])
    resamples = len(sorted_X)
    low, high = sorted_X[resamples * 25 // 1000], sorted_X[-(-resamples * 975 // 1000) - 1]
    value_low_high = _divide(np.array([rates_X[0], low, high], dtype=np.int64), np.int64(_RATE // UNITS))
    return Estimate(*(int(number) for number in value_low_high))


def _divide(numerator: I64, denominator: I64 | np.int64) -> I64:
    """Quotient rounded half up, in integers."""
    quotient: I64 = (2 * numerator + denominator) // (2 * denominator)
    return quotient
