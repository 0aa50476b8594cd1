"""Runs a function on several ranks joined over gloo on this machine: `run_gang("module:function", 2, {...}, folder)`.

Each rank is a process of its own (`python -m tests.training.harness SPEC RANK`); arguments and results travel as
JSON files, floats exactly. The ranks meet through a file, so no port is taken.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass
class RankGang:
    """A rank of a test; says it is preempted once it has been asked `patience` times, and counts checkpoints."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    patience: int = 1_000_000
    checkpoints: int = 0

    def checkpointed(self) -> None:
        self.checkpoints += 1

    def preempted(self) -> bool:
        self.patience -= 1
        return self.patience < 0


def run_gang(target: str, world_size: int, arguments: dict[str, Any], folder: Path, *, timeout_s: float = 600.0) -> list[Any]:
    """What `target(gang, **arguments)` returned on each rank.

    Raises:
        AssertionError: a rank failed or the time is up; with the end of that rank's output.
    """
    folder.mkdir(parents=True)
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"target": target, "world_size": world_size, "arguments": arguments}))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    with contextlib.ExitStack() as stack:
        ranks = []
        for rank in range(world_size):
            output = stack.enter_context((folder / f"output.{rank}").open("wb"))
            command = [sys.executable, "-m", "tests.training.harness", str(spec), str(rank)]
            ranks.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT))
        try:
            deadline = time.monotonic() + timeout_s
            while any(rank.poll() is None for rank in ranks):
                assert time.monotonic() < deadline, f"{target} took more than {timeout_s} s:\n{_tails(folder, world_size)}"
                if any(rank.poll() not in (None, 0) for rank in ranks):
                    break
                time.sleep(0.02)
        finally:
            for process in ranks:
                process.kill()
                process.wait()
    assert all((folder / f"result.{rank}").exists() for rank in range(world_size)), f"{target} failed:\n{_tails(folder, world_size)}"
    return [json.loads((folder / f"result.{rank}").read_text()) for rank in range(world_size)]


def _tails(folder: Path, world_size: int) -> str:
    return "\n".join(f"--- rank {rank}\n{(folder / f'output.{rank}').read_text()[-3000:]}" for rank in range(world_size))


@contextlib.contextmanager
def joined(spec: Path, rank: int, world_size: int) -> Iterator[RankGang]:
    """The process group of a rank."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{spec.parent / 'meeting'}", rank=rank, world_size=world_size)
    try:
        yield RankGang(rank, world_size, rank)
    finally:
        dist.destroy_process_group()


def main() -> None:
    spec, rank = Path(sys.argv[1]), int(sys.argv[2])
    task = json.loads(spec.read_text())
    module, _, name = task["target"].partition(":")
    function = getattr(importlib.import_module(module), name)
    with joined(spec, rank, task["world_size"]) as gang:
        result = function(gang, **task["arguments"])
    partial = spec.parent / f"result.{rank}.partial"
    partial.write_text(json.dumps(result))
    partial.replace(spec.parent / f"result.{rank}")


if __name__ == "__main__":
    main()
