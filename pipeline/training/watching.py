"""What a run tells of its ranks beside the loss: whether one is slower than the rest, and the memory of the fullest.

A step's seconds are the same on all ranks, since they wait for each other; what differs is how long each computes before it waits. Measured is the time from the
start of a step to the end of its last forward pass, before the gradients are joined (at ZeRO 3, whose forward passes wait too, the ranks look more alike than they are).
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch


class Busy:
    """How long this rank has computed since it was last asked; on a GPU by events, which do not make the device wait."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._started: Any = None
        self._events: list[tuple[Any, Any]] = []

    def start(self) -> None:
        """A step begins."""
        self._started = self._now()

    def stop(self) -> None:
        """Its last forward pass is done."""
        if self._device.type == "cuda":
            self._events.append((self._started, self._now()))
        else:
            self._seconds += self._now() - self._started

    def seconds(self) -> float:
        """Since the last call; called after something has waited for the device."""
        if self._events:
            torch.cuda.synchronize(self._device)
            self._seconds += sum(float(first.elapsed_time(last)) for first, last in self._events) / 1000
            self._events = []
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: of a GPU those that torch had allocated on it, else those of the process in memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
