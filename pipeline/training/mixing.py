"""Several objectives in one run: each step's whole global batch belongs to one of them.

    step s -> objective o, by a shuffled block of K steps that holds each objective exactly slots_o times, Σ slots_o = K
           -> the n-th step of o                       a pure function of (seed, s): any step can be asked for alone
           -> o's own feed at step n                   its samples and rates come one after the other, whatever lies between

So shares are met exactly over a block, each step's loss has one unit, and its weight is that of one objective: known before a token is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from pipeline.training.mixture import Mixture


class StepFeed(Protocol):
    """Where batches come from; pure in `step`, so nothing about it is stored."""

    @property
    def global_batch(self) -> int:
        """Sequences, or pairs, in a step over all ranks."""

    def micro_batches(self, step: int, rank: int, world_size: int, micro_batch: int) -> Iterable[Any]:
        """A rank's part of the global batch of `step`, as dataclasses of arrays, equally many on every rank."""

    def weight(self, step: int) -> float:
        """Total weight of the global batch of `step`, by which its summed loss is divided: predictions, pairs or examples."""


@dataclass(frozen=True)
class Mixed:
    """The feeds of several objectives as one."""

    feeds: Mapping[str, StepFeed]
    """Of each objective, all of one global batch."""
    slots: Mapping[str, int]
    """Steps of each objective in a block, at least 1."""
    seed: int
    """Chooses the order within a block."""

    def __post_init__(self) -> None:
        if set(self.feeds) != set(self.slots):
            raise ValueError(f"Mixed: feeds of {sorted(self.feeds)}, slots of {sorted(self.slots)}; both must name the same objectives")
        if len({feed.global_batch for feed in self.feeds.values()}) != 1:
            raise ValueError("Mixed: the feeds have several global batches; all objectives of a run have one")

    @property
    def global_batch(self) -> int:
        """As `StepFeed.global_batch`."""
        return next(iter(self.feeds.values())).global_batch

    def micro_batches(self, step: int, rank: int, world_size: int, micro_batch: int) -> Iterable[Any]:
        """As `StepFeed.micro_batches`."""
        name, own = self.turn(step)
        return self.feeds[name].micro_batches(own, rank, world_size, micro_batch)

    def weight(self, step: int) -> float:
        """As `StepFeed.weight`."""
        name, own = self.turn(step)
        return self.feeds[name].weight(own)

    def turn(self, step: int) -> tuple[str, int]:
        """The objective that a step belongs to, and how many steps of it come before."""
        number, place = divmod(step, sum(self.slots.values()))
        if number not in self._orders:
            self._orders.clear()
            self._orders[number] = self._order(number)
        name, before = self._orders[number][place]
        return name, number * self.slots[name] + before

    @cached_property
    def _orders(self) -> dict[int, list[tuple[str, int]]]:
        """Of the block that was last asked for: the objective of each step, and how many of its steps in the block come before."""
        return {}

    def _order(self, number: int) -> list[tuple[str, int]]:
        plan, block = self._plan, sum(self.slots.values())
        seen = dict.fromkeys(self.slots, -1)
        order = []
        for language in plan.samples(number * block, (number + 1) * block).language_N.tolist():
            name = plan.languages[language]
            seen[name] += 1
            order.append((name, seen[name]))
        return order

    @cached_property
    def _plan(self) -> Mixture:
        return Mixture(rows=dict.fromkeys(self.slots, 1), slots=dict(self.slots), seed=self.seed)
