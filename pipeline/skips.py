"""Steps of data that a training run leaves out, after a loss spike: which step of the data an update takes.

    update u -> u + the steps left out before it        data step d, a pure function of the ranges: nothing else is stored

Ranges are of data steps, [first, stop), rising and apart. PaLM (Chowdhery et al. 2022, 5.1) goes back some 100 steps before a spike and leaves out the batches
up to it. The driver keeps them as `skips.json` beside the checkpoints, each checkpoint has those that it was trained under. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rewinding:
    """How a run goes back from a spike."""

    steps: int
    """That the checkpoint to go on from lies back at least; where there is none, the oldest is taken."""
    most: int
    """Times it may go back in all."""


@dataclass(frozen=True)
class Skips:
    """The data steps left out."""

    ranges: tuple[tuple[int, int], ...] = ()
    """[first, stop), rising and apart."""

    @classmethod
    def of(cls, ranges: Iterable[Iterable[int]]) -> Skips:
        """From ranges in any order, which may touch or overlap.

        Raises:
            ValueError: a range is empty, or begins before 0.
        """
        merged: list[tuple[int, int]] = []
        for first, stop in sorted((int(a), int(b)) for a, b in ranges):
            if first < 0 or stop <= first:
                raise ValueError(f"skips: [{first}, {stop}) is no range of steps")
            if merged and first <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((first, stop))
        return cls(tuple(merged))

    @property
    def count(self) -> int:
        """Data steps left out."""
        return sum(stop - first for first, stop in self.ranges)

    def data_step(self, update: int) -> int:
        """The data step of an update, both from 0; that of the update after the last is where the data go on."""
        step = update
        for first, stop in self.ranges:
            if step < first:
                break
            step += stop - first
        return step

    def without(self, update: int, until: int) -> Skips:
        """These, and the data of the updates from `update` to `until`, inclusive."""
        return Skips.of([*self.ranges, (self.data_step(update), self.data_step(until) + 1)])

    def agrees(self, earlier: Skips, update: int) -> bool:
        """Whether a run that left out `earlier` made the first `update` updates on the same data as one that leaves out these."""
        return update == 0 or self._before(update) == earlier._before(update)

    def _before(self, update: int) -> tuple[tuple[int, int], ...]:
        last = self.data_step(update - 1)
        return tuple(each for each in self.ranges if each[0] <= last)


def merged_without_undone(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record a step in the order of steps; of a figure written twice the last counts (a resumed run writes some steps again).

    `skipped_steps` in a record counts the data steps left out so far. The first record of a run that went back has more than all before it: those of its step and
    on are undone, with all their figures.
    """
    by_step: dict[int, dict[str, Any]] = {}
    skipped = 0
    for record in records:
        step, now = int(record["step"]), int(record.get("skipped_steps", 0))
        if now > skipped:
            by_step = {number: found for number, found in by_step.items() if number < step}
            skipped = now
        by_step.setdefault(step, {}).update(record)
    return [by_step[step] for step in sorted(by_step)]
