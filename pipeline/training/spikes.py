"""Loss spikes: a step whose loss, or gradient norm, lies far above what the steps before it of the same objective had.

    value > median + threshold · max(1.4826 · MAD, 0.001 · |median|)          of the last `window` steps of that phase and objective

The median absolute deviation (MAD) is hardly moved by a spike, as a standard deviation is; 1.4826 makes it one for a normal distribution. A value that is no number
is a spike whatever the window holds. What is known is part of a checkpoint, so a run that goes on judges as it would have; nothing is judged before a window is full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from pipeline.skips import Skips
from pipeline.training.mixing import StepFeed

NORMAL = 1.4826
"""Standard deviations in a median absolute deviation of a normal distribution."""
_LEAST = 1e-3
"""Of the median: what a deviation counts as at least, so that a loss that stands still has no spikes."""

Recent = dict[str, list[list[float]]]
"""Phase and objective -> [loss, gradient norm] of its last steps, the oldest first."""


@dataclass(frozen=True)
class SpikeRule:
    """What counts as one."""

    loss: float = 0.0
    """Deviations that a loss may lie above the median; 0 where it is not watched."""
    gradient: float = 0.0
    """Of the gradient norm."""
    window: int = 128
    """Steps of an objective that make the median."""

    @property
    def is_on(self) -> bool:
        """Whether anything is watched."""
        return self.loss > 0 or self.gradient > 0


class Watch:
    """The windows of a run."""

    def __init__(self, rule: SpikeRule, recent: Recent | None = None) -> None:
        self.rule = rule
        self._recent: Recent = {key: [list(pair) for pair in pairs] for key, pairs in (recent or {}).items()}

    @property
    def recent(self) -> Recent:
        """What a checkpoint keeps."""
        return {key: [list(pair) for pair in pairs] for key, pairs in sorted(self._recent.items())}

    def judge(self, phase: int, objective: str | None, loss: float, gradient_norm: float) -> str | None:
        """Why this step is a spike, in words; None, and it joins its window, where it is not. Windows of other phases are let go."""
        key = f"{phase}/{objective or ''}"
        known = [pair for pair in self._recent.get(key, ()) if len(pair) == 2]
        for name, place, value, threshold in (
            ("loss", 0, loss, self.rule.loss), ("gradient norm", 1, gradient_norm, self.rule.gradient)
        ):  # fmt: skip
            if not math.isfinite(value):
                return f"{name} is {value}"
            if threshold and len(known) >= self.rule.window:
                middle, bound = bound_of([pair[place] for pair in known], threshold)
                if value > bound:
                    own = f" of {objective}" if objective else ""
                    return f"{name}{own} {value:.4g} is above {bound:.4g}, the bound for a median of {middle:.4g}"
        self._recent = {each: pairs for each, pairs in self._recent.items() if each.startswith(f"{phase}/")}
        self._recent[key] = [*known, [loss, gradient_norm]][-self.rule.window :]
        return None


def bound_of(values: list[float], threshold: float) -> tuple[float, float]:
    """The median of `values`, and what lies above it by `threshold` deviations."""
    middle = median(values)
    deviation = NORMAL * median(abs(value - middle) for value in values)
    return middle, middle + threshold * max(deviation, _LEAST * abs(middle))


@dataclass(frozen=True)
class Skipping:
    """A feed by updates: that of a run which leaves out some steps of its data."""

    feed: StepFeed
    skips: Skips

    @property
    def global_batch(self) -> int:
        """As `StepFeed.global_batch`."""
        return self.feed.global_batch

    def micro_batches(self, step: int, rank: int, world_size: int, micro_batch: int) -> Iterable[Any]:
        """As `StepFeed.micro_batches`."""
        return self.feed.micro_batches(self.skips.data_step(step), rank, world_size, micro_batch)

    def weight(self, step: int) -> float:
        """As `StepFeed.weight`."""
        return self.feed.weight(self.skips.data_step(step))

    def objective_at(self, step: int) -> str | None:
        """The name of the objective that an update belongs to; None where the feed tells none."""
        ask = getattr(self.feed, "objective_at", None)
        return None if ask is None else ask(self.skips.data_step(step))

    def phase(self, step: int) -> int:
        """The number of the phase; 0 where the feed tells none."""
        ask = getattr(self.feed, "phase", None)
        return 0 if ask is None else int(ask(self.skips.data_step(step)))
