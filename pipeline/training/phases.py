"""Training in phases: each with its own mixture and objective, one after the other (mmBERT: α .7 → .5 → .3 while the mask rate falls 30 → 15 → 5%).

    step s -> the phase it falls into -> that phase's feed at step s − first step of the phase

Each phase has its plan of samples from its own seed, so a phase can be changed without touching those before it, and any step can still be asked for alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.training.mixing import Mixed, StepFeed


def first_steps(shares: Sequence[float], steps: int) -> list[int]:
    """The first step of each phase, for shares of all steps that sum to 1.

    Raises:
        ValueError: no share, one not above 0, a sum that is not 1, or a phase without a step.
    """
    if not shares or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"phases: the shares {list(shares)} must be above 0 and sum to 1")
    starts = [round(sum(shares[:number]) * steps) for number in range(len(shares))]
    if any(b <= a for a, b in zip(starts, [*starts[1:], steps], strict=True)):
        raise ValueError(f"phases: {steps} steps are too few for shares of {list(shares)}; a phase would have no step")
    return starts


@dataclass(frozen=True)
class Phased:
    """The feeds of all phases as one; see `pipeline.training.mixing.StepFeed`."""

    feeds: tuple[StepFeed, ...]
    """Of one global batch, vocabulary and set of languages."""
    starts: tuple[int, ...]
    """First step of each, rising from 0."""
    objectives: tuple[str, ...] = ()
    """That of each phase; of a phase whose feed is `Mixed`, any of its. None given: not told."""

    @property
    def global_batch(self) -> int:
        """Sequences in a step over all ranks."""
        return self.feeds[0].global_batch

    def micro_batches(self, step: int, rank: int, world_size: int, micro_batch: int) -> Iterable[Any]:
        """As `StepFeed.micro_batches`."""
        number = self.phase(step)
        return self.feeds[number].micro_batches(step - self.starts[number], rank, world_size, micro_batch)

    def weight(self, step: int) -> float:
        """As `StepFeed.weight`."""
        number = self.phase(step)
        return self.feeds[number].weight(step - self.starts[number])

    def objective_at(self, step: int) -> str | None:
        """The name of the objective that a step belongs to; none where the whole run has one, or none is told."""
        if len({name for feed, own in zip(self.feeds, self.objectives, strict=False) for name in _names(feed, own)}) < 2:
            return None
        number = self.phase(step)
        feed = self.feeds[number]
        return feed.turn(step - self.starts[number])[0] if isinstance(feed, Mixed) else self.objectives[number]

    def phase(self, step: int) -> int:
        """The number of the phase that a step falls into."""
        return bisect_right(self.starts, step) - 1


def _names(feed: StepFeed, own: str) -> tuple[str, ...]:
    return tuple(feed.feeds) if isinstance(feed, Mixed) else (own,)
