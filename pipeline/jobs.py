"""A training job as a stage runs it: a gang over checkpoints in storage, started again after it lost a worker.

    checkpoints/  step-00000100/ … each complete once its checkpoint.json is there; the newest whole one is where a start goes on

A checkpoint whose bytes are not those recorded is set apart (`damaged-…`) and the one before is taken.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any

from pipeline.cluster import Cluster, NodeLost, WorkerDied
from pipeline.errors import ConfigError, IntegrityError
from pipeline.gang_sizes import world_size
from pipeline.storage import Storage

log = logging.getLogger(__name__)

INDEX = "checkpoint.json"
_UNFINISHED = re.compile(r".*?/unfinished-[^/]+")


def checkpoints(storage: Storage, folder: str) -> list[str]:
    """Folders of whole checkpoints, oldest first."""
    return sorted(path.rpartition("/")[0] for path in storage.list(folder) if path.endswith(f"/{INDEX}") and "/step-" in path)


def run_gang(
    cluster: Cluster, storage: Storage, folder: str, entry: str, argument: dict[str, Any], *, global_batch: int, workers: int | tuple[int, int], name: str,
    max_restarts: int, deadline_s: float, on_poll: Callable[[], None], fence: Callable[[], None],
) -> list[Any]:  # fmt: skip
    """Run `entry` on a gang until it ends, going on from the newest whole checkpoint below `folder` at each start.

    Returns the ranks' values; that of rank 0 has `about.interrupted`, true when it stopped early for a preemption.

    Raises:
        PipelineError: as a rank raised it; or the gang lost workers more than `max_restarts` times.
    """
    restarts = 0
    while True:
        fence()
        _clear_unfinished(storage, folder)
        whole = checkpoints(storage, folder)
        resume = whole[-1] if whole else None
        ranks = world_size(cluster, workers, global_batch)
        log.info("%s: %d rank(s)%s", name, ranks, f", going on from {resume.rpartition('/')[2]}" if resume else "")
        try:
            values = cluster.launch_gang(
                entry, {**argument, "resume": resume}, workers=ranks, name=f"{name}-{restarts}", deadline_s=deadline_s, on_poll=on_poll
            )
            if not values[0]["about"]["interrupted"]:
                return values
            log.info("%s: a node is taken away; a checkpoint was saved, the gang starts again elsewhere", name)
        except IntegrityError as error:
            if resume is None or resume not in str(error).replace(storage.root + "/", ""):
                raise
            log.warning("%s; the checkpoint before is taken", error)
            _set_apart(storage, resume)
        except (WorkerDied, NodeLost) as error:
            restarts += 1
            if restarts > max_restarts:
                raise
            log.warning("%s; started again from the last whole checkpoint (%d of %d)", error, restarts, max_restarts)
            time.sleep(min(30.0, 2.0**restarts))


def _clear_unfinished(storage: Storage, folder: str) -> None:
    found = {match.group() for path in storage.list(folder) if (match := _UNFINISHED.match(path))}
    for path in sorted(found):
        storage.remove(path)


def _set_apart(storage: Storage, folder: str) -> None:
    """Without its index a folder is no checkpoint; the rest is kept for a look."""
    storage.remove(f"{folder}/{INDEX}")
    if checkpoints(storage, folder):
        raise ConfigError(f"{folder}: its {INDEX} cannot be removed; remove the folder by hand")
