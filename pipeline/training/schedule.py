"""Learning-rate schedules: pure functions from the number of an update to a multiplier of the peak rate.

Updates are counted from 0 to total − 1. In the first `warmup` of them the multiplier climbs in equal steps
to 1, reached at update warmup − 1; then the named shape takes over. Nothing is stored: a resumed run asks
for the same update and gets the same rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from pipeline.errors import ConfigError

WSD_DECAY_SHARE = 0.2
"""The part of all updates over which warmup-stable-decay goes down."""

Shape = Callable[[int, int, int], float]
"""(update, warmup, total) -> multiplier, for updates after the warmup."""


def _progress(update: int, start: int, total: int) -> float:
    return min(1.0, max(0.0, (update - start) / max(1, total - start)))


def constant(update: int, warmup: int, total: int) -> float:
    """1 throughout."""
    return 1.0


def linear(update: int, warmup: int, total: int) -> float:
    """A straight line from 1 down to 0, which the update after the last would reach (BERT, XLM-R)."""
    return 1.0 - _progress(update, warmup, total)


def inverse_sqrt(update: int, warmup: int, total: int) -> float:
    """√(warmup / n) for the n-th update: has no end (Vaswani et al. 2017; XLM)."""
    start = max(1, warmup)
    return math.sqrt(start / max(start, update + 1))


def cosine(update: int, warmup: int, total: int) -> float:
    """Half a cosine from 1 to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * _progress(update, warmup, total)))


def wsd(update: int, warmup: int, total: int) -> float:
    """Warmup, stable, decay: 1 until the last fifth, then 1 − √(share of it that is done) (mmBERT, arXiv 2405.18392)."""
    start = max(warmup, total - math.ceil(WSD_DECAY_SHARE * total))
    return 1.0 - math.sqrt(_progress(update, start, total))


SCHEDULES: dict[str, Shape] = {
    "linear": linear,
    "inverse_sqrt": inverse_sqrt,
    "cosine": cosine,
    "constant": constant,
    "wsd": wsd,
}


def multiplier(schedule: str, update: int, *, warmup: int, total: int) -> float:
    """What the peak learning rate is multiplied by at `update`, in [0, 1].

    Args:
        schedule: a key of `SCHEDULES`.
        update: number of the update, from 0.
        warmup: updates of the climb; 0 for none.
        total: updates of the whole run.

    Raises:
        ConfigError: no such schedule, or the warmup does not fit into the run.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"schedule: {schedule!r} is not known; allowed: {', '.join(SCHEDULES)}")
    if warmup < 0 or warmup > total:
        raise ConfigError(f"warmup_steps: {warmup} does not fit into a run of {total} steps; choose 0 to {total}")
    if update < warmup:
        return (update + 1) / warmup
    return SCHEDULES[schedule](update, warmup, total)
