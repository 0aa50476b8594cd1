"""Which row of which language is training sample g: a pure function of (seed, g), so there is no sampler to save.

    g ──▶ block b = g div K, place i = g mod K
      ──▶ slot = i shuffled within the block         K slots, slots_l of them belong to language l, Σ slots_l = K
      ──▶ language l that owns the slot
      ──▶ n-th use of l:  n = b·slots_l + (slot − first slot of l)
      ──▶ epoch = n div N_l, row = (n mod N_l) shuffled within the epoch of l

Each block of K samples holds every language exactly slots_l times, so the shares hold exactly and not only on average;
every epoch of a language uses each of its rows once before any row comes twice. Any range of samples can be asked for,
alone, in any order, on any rank.

Shares follow p ∝ n^α (Lample and Conneau 2019, section 3.1; XLM-R takes α = 0.3). The powers are taken in decimal
arithmetic, since `pow` of the C library may differ in the last bit from one machine to the next.

Legend: N samples asked for, L languages in code order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.training.counter import derive
from pipeline.training.kernels import plan

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

DEFAULT_BLOCK = 65_536
"""Slots of a block, in samples: a share is met to within 1/65,536."""

_MAX_SAMPLES = 1 << 62
_WEIGHT_UNIT = Decimal(10) ** 18


class Samples(NamedTuple):
    """Where the samples asked for come from."""

    language_N: I32
    """Index into the languages, sorted by code."""
    row_N: I64
    """Row within the language's packing."""
    epoch_N: I64
    """How often the language has been gone through before."""


def weights_alpha(sizes: Mapping[str, int], alpha: float | str | Decimal) -> dict[str, int]:
    """Weights ∝ n^α as integers (n^α in units of 10⁻¹⁸, at least 1), in the order of the language codes.

    sizes: n of each language, in any one unit. alpha: 1 keeps the sizes, 0 makes all equal.
    n^α = exp(α·ln n) with 50 digits; `decimal` rounds ln and exp correctly, so the integers are the same everywhere.

    Raises:
        ValueError: no language, a size below 1, or alpha outside [0, 1].
    """
    context = Context(prec=50, rounding=ROUND_HALF_EVEN)
    exponent = Decimal(str(alpha))  # the number as written: 0.3 and not 0.299999…
    if not exponent.is_finite() or not 0 <= exponent <= 1:
        raise ValueError(f"weights_alpha: alpha is {alpha}; it must lie in 0..1 (XLM-R 0.3)")
    _check_sizes("weights_alpha", sizes)
    weights = {}
    for language in sorted(sizes):
        power = context.exp(context.multiply(exponent, context.ln(Decimal(sizes[language]))))
        weights[language] = max(1, int(context.to_integral_value(context.multiply(power, _WEIGHT_UNIT))))
    return weights


def slot_counts(weights: Mapping[str, int], block: int) -> dict[str, int]:
    """Share out `block` slots in proportion to the weights: largest remainder, at least one slot each.

    A language whose quota is below one gets one slot, and the others share the rest. Ties go to the smaller code.
    The counts sum to `block`.

    Raises:
        ValueError: no language, a weight below 1, or fewer slots than languages.
    """
    _check_sizes("slot_counts", weights)
    if block < len(weights):
        raise ValueError(f"slot_counts: {block} slots for {len(weights)} languages; give at least one slot each")
    counts: dict[str, int] = {}
    sharing = sorted(weights)
    while True:
        slots = block - len(counts)
        total = sum(weights[language] for language in sharing)
        small = [language for language in sharing if weights[language] * slots < total]
        if not small:
            break
        # Taking these out can push others below one, so the quotas are looked at again.
        counts.update(dict.fromkeys(small, 1))
        sharing = [language for language in sharing if language not in counts]
    for language in sharing:
        counts[language] = weights[language] * slots // total
    left = block - sum(counts.values())
    by_remainder = sorted(sharing, key=lambda language: (-(weights[language] * slots % total), language))
    for language in by_remainder[:left]:
        counts[language] += 1
    return {language: counts[language] for language in sorted(counts)}


@dataclass(frozen=True)
class Mixture:
    """The plan of all samples of a training phase."""

    rows: Mapping[str, int]
    """Number of packed rows of each language, at least 1."""
    slots: Mapping[str, int]
    """Slots of each language in a block, at least 1 (`slot_counts`)."""
    seed: int
    """Chooses the shuffles; the counts do not depend on it."""

    def __post_init__(self) -> None:
        _check_sizes("Mixture.rows", self.rows)
        _check_sizes("Mixture.slots", self.slots)
        if set(self.rows) != set(self.slots):
            odd = sorted(set(self.rows) ^ set(self.slots))
            raise ValueError(f"Mixture: {', '.join(odd)} has rows but no slots, or slots but no rows; both must name the same languages")

    @classmethod
    def by_alpha(cls, rows: Mapping[str, int], alpha: float | str | Decimal, seed: int, block: int = DEFAULT_BLOCK) -> Mixture:
        """Shares p ∝ rows^α. At α = 1 the block is the whole corpus, so each row comes exactly once an epoch.

        Raises:
            ValueError: as `weights_alpha` and `slot_counts`.
        """
        if Decimal(str(alpha)) == 1:
            return cls(rows=dict(rows), slots=dict(rows), seed=seed)
        return cls(rows=dict(rows), slots=slot_counts(weights_alpha(rows, alpha), block), seed=seed)

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Codes in sorted order; `language_N` indexes them."""
        return tuple(sorted(self.rows))

    @cached_property
    def block(self) -> int:
        """K: samples after which the shares are met exactly."""
        return sum(self.slots.values())

    def samples(self, start: int, stop: int) -> Samples:
        """Samples start … stop − 1 of the plan.

        Raises:
            ValueError: not 0 ≤ start ≤ stop ≤ 2^62.
        """
        if not 0 <= start <= stop <= _MAX_SAMPLES:
            raise ValueError(f"Mixture.samples: [{start}, {stop}) is no range of samples; 0 ≤ start ≤ stop is wanted")
        found = plan(start, stop, self.block, self._block_key, self._slot_ends, self._num_slots, self._num_rows, self._row_keys)
        return Samples(*found)

    @cached_property
    def _num_rows(self) -> I64:  # this and the next three: [L]
        return np.array([self.rows[language] for language in self.languages], dtype=np.int64)

    @cached_property
    def _num_slots(self) -> I64:
        return np.array([self.slots[language] for language in self.languages], dtype=np.int64)

    @cached_property
    def _slot_ends(self) -> I64:
        return np.cumsum(self._num_slots)

    @cached_property
    def _row_keys(self) -> npt.NDArray[np.uint64]:
        # By code and not by index: another language in the corpus leaves the order of this one's rows as it was.
        return np.array([derive(self.seed, "rows", language) for language in self.languages], dtype=np.uint64)

    @cached_property
    def _block_key(self) -> np.uint64:
        return np.uint64(derive(self.seed, "block"))


def _check_sizes(what: str, sizes: Mapping[str, int]) -> None:
    if not sizes:
        raise ValueError(f"{what}: no language is given; at least one is needed")
    for language in sorted(sizes):
        if sizes[language] < 1:
            raise ValueError(f"{what}: {language} has {sizes[language]}; leave out languages with nothing, the others have at least 1")
