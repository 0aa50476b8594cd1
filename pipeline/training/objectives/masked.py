"""Masked language modelling: which tokens of a row are hidden, and what stands in their place.

    row       <s> w1 w2 w3 w4 w5 w6 </s> <pad>
    chosen              *        *                the ⌊rate·n + ½⌋ tokens with the smallest hash of (seed, sample, place)
    input     <s> w1 <mask> w3 w4 x9 w6 </s>      of the chosen 80% `<mask>`, 10% a random id, 10% as they are
    labels              w2       w5

BERT (Devlin et al. 2019, section 3.1); chosen anew each time a row is seen, as in RoBERTa. Departure: a row's number of
chosen tokens is fixed by its length instead of drawn, so the weight of a batch is known before a token is read and the
shapes are static. Not each token alike, but words, spans or rare tokens: `choices`.

Masks are a pure function of (seed, sample index, place in the row): the same whatever the batch, the rank and the resume.

Legend: B rows, T places of a row, P most predictions of a row, M = B·P predictions of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.text.packing import UNK
from pipeline.training.counter import derive
from pipeline.training.kernels import hide, hide_in_order
from pipeline.training.objectives.choices import Choice

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.integer]

DEFAULT_RATE = 150_000
"""Share of tokens predicted, in millionths: 15%."""

HELD_OUT_SEED = 20_190_122
"""Seed of the held-out masks: one number for all runs, so that two models are compared on the same places."""

_MILLION = 1_000_000
_FIRST_ORDINARY = UNK + 1
_TENTHS_MASKED, _TENTHS_CHANGED = 8, 9  # of ten equal parts: 0–7 `<mask>`, 8 a random id, 9 kept


@dataclass(frozen=True, eq=False)
class Masked:
    """A batch with its tokens hidden. Unused places among the M have index 0, label 0 and weight 0."""

    input_ids_BT: I64
    """Ids as the model sees them."""
    masked_index_M: I64
    """Flat places, b·T + t; each row has P of them, rising, the unused ones last."""
    labels_M: I64
    """The true ids at these places."""
    weights_M: F32
    """1 where there is something to predict, else 0."""
    is_causal: bool = False
    """Each place sees itself and those before it only."""


@dataclass(frozen=True)
class MaskedLanguageModel:
    """MLM as an objective: see `pipeline.training.batches.Objective`."""

    rate_millionths: int = DEFAULT_RATE
    """Share of the tokens that is predicted, in millionths."""
    choice: Choice | None = None
    """Which tokens are hidden; none: each alike."""

    def __post_init__(self) -> None:
        _check_rate(self.rate_millionths)

    def apply(self, ids_BT: I64, lengths_B: Indices, samples_B: Indices, *, seed: int, vocab_size: int) -> Masked:
        """`mask` at this rate and choice."""
        return mask(
            ids_BT, lengths_B, samples_B, seed=seed, vocab_size=vocab_size, rate_millionths=self.rate_millionths, choice=self.choice
        )  # fmt: skip

    def counts(self, lengths_B: Indices, num_special_B: Indices) -> I64:
        """`masked_count` at this rate."""
        return masked_count(lengths_B, num_special_B, rate_millionths=self.rate_millionths)


def objective(rate_millionths: int = DEFAULT_RATE, choice: Choice | None = None) -> MaskedLanguageModel:
    """The objective of this file; the registry's way in.

    Raises:
        ValueError: the rate is outside 1..1,000,000.
    """
    return MaskedLanguageModel(rate_millionths, choice)


@dataclass(frozen=True)
class Scheduled:
    """MLM whose rate goes in a straight line from the first step to the last."""

    start_millionths: int
    """Rate of step 0."""
    end_millionths: int
    """Rate of the last step and of any after it."""
    steps: int
    """From first to last."""
    choice: Choice | None = None
    """As `MaskedLanguageModel.choice`."""

    def __post_init__(self) -> None:
        _check_rate(self.start_millionths)
        _check_rate(self.end_millionths)
        if self.steps < 1:
            raise ValueError(f"mask: a schedule over {self.steps} steps; it needs at least 1")

    def at(self, step: int) -> MaskedLanguageModel:
        """The objective of a step; a pure function of it, in integers, rounded half up. One step alone has the rate of the start."""
        last = max(self.steps - 1, 1)
        done = min(step, last)
        return MaskedLanguageModel((self.start_millionths * (last - done) + self.end_millionths * done + last // 2) // last, self.choice)


def masked_count(lengths: int | Indices, num_special: int | Indices, *, rate_millionths: int = DEFAULT_RATE) -> I64:
    """Number of predictions of rows: ⌊rate·n + ½⌋, at least 1, of the n = lengths − num_special ordinary tokens (none of none).

    lengths: tokens with `<s>` and `</s>`, without padding. num_special: how many of them are `<s>` or `</s>`.
    """
    ordinary = np.asarray(lengths, dtype=np.int64) - np.asarray(num_special, dtype=np.int64)
    rounded = (ordinary * rate_millionths + _MILLION // 2) // _MILLION
    return np.minimum(np.maximum(rounded, 1), ordinary)


def mask(
    ids_BT: I64,
    lengths_B: Indices,
    sample_index_B: Indices,
    *,
    seed: int,
    vocab_size: int,
    rate_millionths: int = DEFAULT_RATE,
    choice: Choice | None = None,
) -> Masked:
    """Hide tokens for training, 80/10/10; `<s>`, `</s>` and `<pad>` are never chosen, `<unk>` may be.

    ids_BT: packed rows. lengths_B: their tokens, padding not counted. sample_index_B: global sample index of each row,
    the only thing besides seed and place that the choice depends on. vocab_size: `<mask>` is vocab_size − 1, and a
    random id lies in 4 … vocab_size − 2. choice: which tokens; none: each alike.

    Raises:
        ValueError: the rate is outside 1..1,000,000, the vocabulary has no ordinary id, or the choice is one for another vocabulary.
    """
    key = derive(seed, "mlm")
    return _mask(ids_BT, lengths_B, sample_index_B, key, vocab_size, rate_millionths, _TENTHS_MASKED, _TENTHS_CHANGED, choice)


def held_out_mask(ids_BT: I64, lengths_B: Indices, sample_index_B: Indices, *, vocab_size: int, seed: int = HELD_OUT_SEED) -> Masked:
    """Hide 15% of the tokens for evaluation: every chosen one becomes `<mask>`, so that each prediction is a real one.

    Arguments and errors as `mask`.
    """
    return _mask(ids_BT, lengths_B, sample_index_B, derive(seed, "held-out"), vocab_size, DEFAULT_RATE, 10, 10)


def _mask(
    ids_BT: I64,
    lengths_B: Indices,
    sample_index_B: Indices,
    key: int,
    vocab_size: int,
    rate_millionths: int,
    tenths_masked: int,
    tenths_changed: int,
    choice: Choice | None = None,
) -> Masked:
    _check_rate(rate_millionths)
    num_ordinary = vocab_size - 1 - _FIRST_ORDINARY
    if num_ordinary < 1:
        raise ValueError(f"mask: a vocabulary of {vocab_size} has no ordinary id; it needs 4 special ids, `<mask>` and at least one more")
    per_row = int(masked_count(max(ids_BT.shape[1], 2), 2, rate_millionths=rate_millionths))
    # The mixer is a bijection, so no two places of a row have the same hash and the count-th smallest parts them exactly.
    samples_B, own_B = np.asarray(sample_index_B).astype(np.uint64), np.asarray(lengths_B, np.int64)
    ids = np.ascontiguousarray(ids_BT, np.int64)
    given = (ids, own_B, samples_B, np.uint64(key), rate_millionths, per_row, tenths_masked, tenths_changed, vocab_size)
    return Masked(*(hide(*given) if choice is None else hide_in_order(*given, *choice.arguments(vocab_size))))


def _check_rate(rate_millionths: int) -> None:
    if not 1 <= rate_millionths <= _MILLION:
        raise ValueError(f"mask: the rate is {rate_millionths} millionths; it must lie in 1..{_MILLION} (15% is {DEFAULT_RATE})")
