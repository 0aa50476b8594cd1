"""What a run tells of its ranks beside the loss: whether one is slower than the rest, the memory of the fullest, and how their machines are used.

A step's seconds are the same on all ranks, since they wait for each other; what differs is how long each computes before it waits. Measured is the time from the
start of a step to the end of its last forward pass, before the gradients are joined (at ZeRO 3, whose forward passes wait too, the ranks look more alike than they are).
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
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


class Machine:
    """Use of a rank's machine and of its own GPU, under MLflow's names of system metrics; the network's since the last reading."""

    OF_HOST = (
        "cpu_utilization_percentage", "system_memory_usage_percentage", "network_receive_megabytes", "network_transmit_megabytes",
    )  # fmt: skip
    OF_GPU = ("memory_usage_percentage", "utilization_percentage")

    def __init__(self, device: torch.device) -> None:
        self._device = device
        psutil.cpu_percent()  # the first answer has no time to speak of
        self._network = psutil.net_io_counters()

    def read(self) -> list[float]:
        """A figure for each name of `OF_HOST` and then of `OF_GPU`; NaN where there is none."""
        before, self._network = self._network, psutil.net_io_counters()
        network = [float("nan")] * 2
        if before is not None and self._network is not None:
            network = [(now - then) / 1e6 for now, then in zip(self._network[1::-1], before[1::-1], strict=True)]
        return [psutil.cpu_percent(), psutil.virtual_memory().percent, *network, *self._gpu()]

    def _gpu(self) -> list[float]:
        if self._device.type != "cuda":
            return [float("nan")] * len(self.OF_GPU)
        free, total = torch.cuda.mem_get_info(self._device)
        utilization = float("nan")
        with contextlib.suppress(Exception):  # the library is not everywhere, and not every driver answers
            utilization = float(torch.cuda.utilization(self._device))
        return [100 * (1 - free / total), utilization]


def system_metrics(read: Sequence[tuple[int, Sequence[float]]]) -> Mapping[str, float]:
    """system/node-N/METRIC -> figure, where MLflow's page of system metrics finds them.

    read: of each rank its number on its host, from 0, and what its `Machine` read. Ranks of a host follow each other.
    """
    found: dict[str, float] = {}
    node = -1
    for local_rank, figures in read:
        if local_rank == 0:
            node += 1
            found |= {f"system/node-{node}/{name}": figure for name, figure in zip(Machine.OF_HOST, figures, strict=False)}
        of_gpu = zip(Machine.OF_GPU, figures[len(Machine.OF_HOST) :], strict=True)
        found |= {f"system/node-{node}/gpu_{local_rank}_{name}": figure for name, figure in of_gpu}
    return {name: figure for name, figure in found.items() if not math.isnan(figure)}
