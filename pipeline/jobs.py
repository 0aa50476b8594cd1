"""A training job as a stage runs it: a gang over checkpoints in storage, started again after it lost a worker.

    checkpoints/  step-00000100/ … each complete once its checkpoint.json is there; the newest whole one is where a start goes on

Each start claims the folder (pipeline.launches), so that a rank of the one before, should it live on, writes no more.
A checkpoint whose bytes are not those recorded is set apart (`damaged-…`) and the one before is taken.

After a loss spike the gang goes on from a checkpoint some steps back and leaves out the data from there to the spike (`skips`). `skips.json` beside the checkpoints
is what counts: it is written first, then checkpoints that were trained on data it leaves out are removed, again at each start, so a kill in between changes nothing.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any

from pipeline.cluster import Cluster, NodeLost, WorkerDied
from pipeline.curve import Curve
from pipeline.errors import IntegrityError, StageError
from pipeline.failpoint import failpoint
from pipeline.gang_sizes import world_size
from pipeline.launches import Launch
from pipeline.progress import Progress
from pipeline.skips import Rewinding, Skips
from pipeline.storage import Storage

log = logging.getLogger(__name__)

INDEX = "checkpoint.json"
SKIPS = "skips.json"
LOOK_EVERY_S = 3.0
_UNFINISHED = re.compile(r".*?/unfinished-[^/]+")


def checkpoints(storage: Storage, folder: str) -> list[str]:
    """Folders of whole checkpoints, oldest first."""
    return sorted(path.rpartition("/")[0] for path in storage.list(folder) if path.endswith(f"/{INDEX}") and "/step-" in path)


def run_gang(
    cluster: Cluster, storage: Storage, folder: str, entry: str, argument: dict[str, Any], *, global_batch: int, workers: int | tuple[int, int], name: str,
    max_restarts: int, deadline_s: float, on_poll: Callable[[], None], fence: Callable[[], None], curve: Curve, steps: int,
    rewinding: Rewinding | None = None,
) -> list[Any]:  # fmt: skip
    """Run `entry` on a gang until it ends, going on from the newest whole checkpoint below `folder` at each start.

    The argument that `entry` gets has `resume`, a folder or None, and `skips`, the ranges of data steps to leave out.

    Returns the ranks' values; that of rank 0 has `about.interrupted`, true when it stopped early for a preemption, and, where `rewinding` is given, may have
    `about.spiked`: {"step": updates made before the spike, "reason": in words}.

    Raises:
        PipelineError: as a rank raised it; or the gang lost workers more than `max_restarts` times, or spiked more than `rewinding.most` times.
    """
    with Progress(name.rpartition("-")[0], steps, "steps") as progress:
        watcher = _Watcher(curve, progress, on_poll)
        return _run_gang(
            cluster, storage, folder, entry, argument, global_batch, workers, name, max_restarts, deadline_s, watcher.poll, fence, rewinding
        )  # fmt: skip


class _Watcher:
    """Shows how far the ranks are, from the records they write, and says so to whoever watches for a hang."""

    def __init__(self, curve: Curve, progress: Progress, on_poll: Callable[[], None]) -> None:
        self._curve, self._progress, self._on_poll = curve, progress, on_poll
        self._chunks = 0
        self._looked_at_s = 0.0

    def poll(self) -> int:
        """Called each second; the number of record chunks so far."""
        self._on_poll()
        if time.monotonic() - self._looked_at_s >= LOOK_EVERY_S:
            self._looked_at_s = time.monotonic()
            records, self._chunks = self._curve.read(self._chunks)
            if records:
                last = records[-1]
                losses = [f"{name} {value:.3f}" for name, value in last.items() if name.endswith("loss")]
                rate = next((value for name, value in last.items() if name.endswith("tokens_per_second")), 0.0)
                note = ", ".join([*losses, f"{rate:.0f} tokens/s"])
                self._progress.update(int(last["step"]), note)
            else:
                self._progress.update(self._progress.done)
        return self._chunks


def _run_gang(
    cluster: Cluster, storage: Storage, folder: str, entry: str, argument: dict[str, Any], global_batch: int, workers: int | tuple[int, int], name: str,
    max_restarts: int, deadline_s: float, on_poll: Callable[[], int], fence: Callable[[], None], rewinding: Rewinding | None,
) -> list[Any]:  # fmt: skip
    launches = restarts = 0
    while True:
        fence()
        launches += 1
        launch = Launch(storage, folder, f"{storage.attempt}-{launches}")
        launch.claim()
        _clear_unfinished(storage, folder)
        skips = read_skips(storage, folder)
        _clear_undone(storage, folder, skips)
        whole = checkpoints(storage, folder)
        resume = whole[-1] if whole else None
        ranks = world_size(cluster, workers, global_batch)
        log.info("%s: %d rank(s)%s", name, ranks, f", going on from {resume.rpartition('/')[2]}" if resume else "")
        try:
            values = cluster.launch_gang(
                entry,
                {**argument, "resume": resume, "skips": [list(each) for each in skips.ranges], "launch": launch.plain()},
                workers=ranks,
                name=f"{name}-{launches}",
                deadline_s=deadline_s,
                on_poll=on_poll,
            )
            about = values[0]["about"]
            if about.get("spiked"):
                assert rewinding is not None, "a rule for spikes without a rule for going back"
                _rewind(storage, folder, skips, rewinding, about["spiked"], name)
                continue
            if not about["interrupted"]:
                return values
            log.info("%s: a node is taken away; a checkpoint was saved, the gang starts again elsewhere", name)
        except IntegrityError as error:
            damaged = next((folder for folder in whole if folder in str(error)), None)
            if damaged is None:
                raise
            log.warning("%s; the checkpoint before is taken", error)
            _set_apart(storage, damaged)
        except (WorkerDied, NodeLost) as error:
            restarts += 1
            if restarts > max_restarts:
                raise
            log.warning("%s; started again from the last whole checkpoint (%d of %d)", error, restarts, max_restarts)
            time.sleep(min(30.0, 2.0**restarts))


def read_skips(storage: Storage, folder: str) -> Skips:
    """What the run with its checkpoints below `folder` leaves out."""
    return Skips.of((storage.read_json(f"{folder}/{SKIPS}") or {"ranges": []})["ranges"])


def rewinds(storage: Storage, folder: str) -> list[dict[str, Any]]:
    """Each time that the run went back: {"spike": step, from 1, "to": updates it went on from, "reason"}."""
    return list((storage.read_json(f"{folder}/{SKIPS}") or {"rewinds": []})["rewinds"])


def _rewind(storage: Storage, folder: str, skips: Skips, rewinding: Rewinding, spike: dict[str, Any], name: str) -> None:
    """Leave out the data between a checkpoint and the spike; what was trained on them is removed at the next start.

    Raises:
        StageError: it has gone back as often as it may.
    """
    made, before = int(spike["step"]), rewinds(storage, folder)
    if len(before) >= rewinding.most:
        raise StageError(
            f"{name}: a spike at step {made + 1} ({spike['reason']}), after going back {len(before)} time(s), which is the most; "
            "lower learning_rate, lengthen warmup, or raise spike.most or the thresholds of spike"
        )
    steps = [int(path.rpartition("/step-")[2]) for path in checkpoints(storage, folder)]
    back = max((step for step in steps if step <= made - rewinding.steps), default=min(steps, default=0))
    after = skips.without(back, made)
    log.warning(
        "%s: a spike at step %d: %s; going on from step %d, %d steps of the data are left out (%d of %d times)",
        name, made + 1, spike["reason"], back, after.count - skips.count, len(before) + 1, rewinding.most,
    )  # fmt: skip
    entry = {"spike": made + 1, "to": back, "reason": spike["reason"]}
    storage.write_json(f"{folder}/{SKIPS}", {"ranges": [list(each) for each in after.ranges], "rewinds": [*before, entry]})
    failpoint("rewind.after_skips")


def _clear_undone(storage: Storage, folder: str, skips: Skips) -> None:
    """Checkpoints that were trained on data left out since."""
    for path in checkpoints(storage, folder) if skips.ranges else ():
        meta = (storage.read_json(f"{path}/{INDEX}") or {}).get("meta", {})
        if not skips.agrees(Skips.of(meta.get("skips", ())), int(meta.get("step", 0))):
            storage.remove(f"{path}/{INDEX}")
            failpoint("rewind.after_index")
            storage.remove(path)


def _clear_unfinished(storage: Storage, folder: str) -> None:
    found = {match.group() for path in storage.list(folder) if (match := _UNFINISHED.match(path))}
    for path in sorted(found):
        try:
            storage.remove(path)
        except OSError as error:  # a rank that lives on writes into it; no other launch does
            log.warning("%s: not removed now: %s", path, error)


def _set_apart(storage: Storage, folder: str) -> None:
    """Without its index a folder is no checkpoint; the rest is kept for a look."""
    storage.remove(f"{folder}/{INDEX}")
