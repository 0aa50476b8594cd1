"""A gang: ranks of one training job, started together by Ray Train and joined in one torch process group.

    launch ──► Ray Train's controller ──► rank 0 … rank n−1, each on its own CPUs or GPU
                                            1. names the network interface of its node's Ray address to gloo and NCCL
                                            2. joins the process group
                                            3. entry(gang, argument) ──► a plain value, gathered at rank 0
    driver: calls `on_poll` each second ◄── the list of values, by rank

Nothing is restarted here. A failure comes out as what it was, and whoever launched decides, passing its own last checkpoint
to the next launch: Ray Train stores none, and its folder is thrown away. Which failure speaks, when ranks fail together:
a lost node, then a dead or hung process, then an error raised on purpose, then any other exception, then the complaints of
ranks whose peers went away.

One `deadline_s` bounds every wait: a collective of torch, a barrier of Ray Train, a rank that no longer answers, the wait for
places, and, where `on_poll` returns something, progress as that sees it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import ray
import ray.train
import torch
import torch.distributed as dist
from ray import PlacementGroupID, exceptions
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.exceptions import PreemptionError
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from pipeline.cluster import NodeLost, TaskRaised, WorkerDied
from pipeline.connection import environment, first_line
from pipeline.errors import PipelineError, StageError
from pipeline.remote import require_plain, require_source_root, resolve

logger = logging.getLogger(__name__)

_POLL_S = 1.0
_ABORT_TIMEOUT_S = 30.0
_NODE_DEATH_TIMEOUT_S = 30.0  # Ray's own health check takes 20 s to give up a node
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class RankSize:
    """What one rank takes of its node."""

    cpus: float
    gpus: float
    memory_bytes: int | None


class Gang:
    """What a rank knows of its job. The two methods are barriers: every rank must call them equally often."""

    def __init__(self, rank: int, world_size: int, local_rank: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self.local_rank = local_rank

    def checkpointed(self) -> None:
        """Say that a checkpoint is complete; returns when every rank has said so."""
        ray.train.report({})

    def preempted(self) -> bool:
        """Whether a node of the gang is about to be taken away: save a checkpoint now. The same answer on every rank."""
        return ray.train.get_preemption_info() is not None


class PeerLostError(StageError):
    """A collective failed on this rank because another one died or hung: never the cause, always the complaint."""


def launch(
    entry: str,
    argument: object,
    *,
    workers: int,
    size: RankSize,
    name: str,
    storage: str | None = None,
    deadline_s: float,
    on_poll: Callable[[], object] | None = None,
    source_root: str | None = None,
) -> list[Any]:
    """Run `entry` ("module:function", called with a `Gang` and `argument`) on `workers` ranks.

    `on_poll` is called each second on this thread; if it returns anything but None, that is taken as a measure of progress, and a
    gang for which it stays the same for `deadline_s` is hung. An exception it raises, or a signal's handler, stops the gang.
    `storage` is a folder on this machine in which Ray Train keeps its books meanwhile.

    Returns the ranks' values: what JSON can hold.

    Raises:
        PipelineError: as a rank raised it.
        TaskRaised: a rank raised something else.
        WorkerDied: a rank's process died or hung.
        NodeLost: a node failed, was preempted, or there were not enough places within the deadline.
    """
    require_plain(argument, "the argument")
    if not _one_at_a_time.acquire(blocking=False):
        raise RuntimeError("a gang runs in this process already, and each may take the whole cluster")
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(_one_at_a_time.release)
        _free_places()
        folder = tempfile.mkdtemp(prefix="xlm-train-", dir=storage)  # fresh, since Ray Train would resume from an old one
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        # Read by Ray Train in this process. A rank must stay in the folder that it was started in.
        cleanup.enter_context(environment({"RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}))
        trainer = _Trainer(
            rank_main,
            train_loop_config={"entry": entry, "argument": argument, "cpus": size.cpus, "source_root": source_root},
            torch_config=GangConfig(backend="cpu:gloo,cuda:nccl" if size.gpus else "gloo", timeout_s=max(1, int(deadline_s))),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=size.gpus > 0, resources_per_worker=_resources(size)),
            run_config=RunConfig(
                name=name,
                storage_path=folder,
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),
                worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": str(max(1, int(size.cpus)))}},
            ),
        )
        trainer.controller_environment = _controller_environment(deadline_s, is_local=source_root is not None)
        return _values(trainer, workers, name, deadline_s, on_poll)


# On the driver --------------------------------------------------------------------------------------------------


class _Trainer(TorchTrainer):  # type: ignore[misc, unused-ignore]
    """A trainer whose controller can be stopped from outside, and gets its settings without changing our environment."""

    controller: Any = None
    controller_environment: Mapping[str, str] = {}

    def _create_default_callbacks(self) -> list[Any]:
        # The cleaner asks Ray's dashboard whether the controller lives, and without a dashboard holds up the end of every
        # run by 12 s. `_free_places` does its work.
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, PlacementGroupCleanerCallback)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        remote = ray.remote(num_cpus=0, label_selector=here, runtime_env={"env_vars": dict(self.controller_environment)})
        self.controller = remote(TrainController).remote(**arguments)
        ray.get(self.controller.run.remote())
        return ray.get(self.controller.get_result.remote())


def _controller_environment(deadline_s: float, *, is_local: bool) -> dict[str, str]:
    return {
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": str(deadline_s),
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(deadline_s),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(deadline_s),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0" if is_local else "1",  # a process more, and nobody drains this machine
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
        "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
        "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
        "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
    }


def _resources(size: RankSize) -> dict[str, float]:
    resources = {"CPU": float(size.cpus)}
    if size.gpus:
        resources["GPU"] = float(size.gpus)
    if size.memory_bytes:
        resources["memory"] = float(size.memory_bytes)
    return resources


def _values(trainer: _Trainer, workers: int, name: str, deadline_s: float, on_poll: Callable[[], object] | None) -> list[Any]:
    """Run the trainer on a thread, where it installs no signal handler, and watch it from here."""
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            outcome.append(trainer.fit())
        except BaseException as error:  # noqa: BLE001 - raised again on the thread that waits
            failure.append(error)

    nodes = _alive_nodes()
    thread = threading.Thread(target=fit, name=f"fit {name}", daemon=True)
    thread.start()
    try:
        _watch(thread, name, deadline_s, on_poll)
    except BaseException:
        if trainer.controller is not None:
            ray.kill(trainer.controller)
        thread.join(_ABORT_TIMEOUT_S)
        _free_places()
        raise
    if failure:
        verdict = classify(name, failure[0])
        if isinstance(verdict, WorkerDied) and verdict.reason == "unknown":
            verdict = _lost_or_dead(verdict, nodes)
        raise verdict from failure[0]
    values = json.loads(outcome[0].return_value)
    assert len(values) == workers
    return list(values)


def _free_places() -> None:
    """Take back the places of a gang whose controller was killed, and kill the ranks in them. Those of other jobs stay."""
    job_id = ray.get_runtime_context().get_job_id()
    for found in placement_group_table().values():
        group_id = found["placement_group_id"]
        if group_id.endswith(job_id) and found["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group_id))))


def _watch(thread: threading.Thread, name: str, deadline_s: float, on_poll: Callable[[], object] | None) -> None:
    progress: object = None
    moved_at_s = time.monotonic()
    while True:
        thread.join(_POLL_S)
        is_over = not thread.is_alive()  # asked before the poll, so that the last poll sees everything
        latest = on_poll() if on_poll is not None else None
        if is_over:
            return
        if latest is None or latest != progress:
            progress, moved_at_s = latest, time.monotonic()
        elif time.monotonic() - moved_at_s > deadline_s:
            raise WorkerDied(f"{name}: no progress for {deadline_s:g} s", reason="hung")


def _alive_nodes() -> set[str]:
    return {entry["NodeID"] for entry in ray.nodes() if entry["Alive"]}


def _lost_or_dead(verdict: WorkerDied, nodes: set[str]) -> PipelineError:
    """Wait until Ray has had time to miss a node, then say whether it was one, of those alive at the launch."""
    end = time.monotonic() + _NODE_DEATH_TIMEOUT_S
    while time.monotonic() < end and len(nodes) > 1:
        if not nodes <= _alive_nodes():
            return NodeLost(f"{verdict}: its node is gone")
        time.sleep(_POLL_S)
    return WorkerDied(f"{verdict} (killed, or crashed in native code)", reason="crash")


def classify(name: str, error: BaseException) -> PipelineError:
    """Say what happened to the gang, as one of our errors."""
    if isinstance(error, ray.train.WorkerGroupError):
        found = [_of_rank(name, rank, failure) for rank, failure in sorted(error.worker_failures.items())]
        first = min(found, key=_importance)  # the lowest rank's among equals
        if isinstance(first, PeerLostError):  # whoever caused it has not been heard of
            return WorkerDied(str(first), reason="unknown")
        return first
    if isinstance(error, PreemptionError):
        return NodeLost(f"{name}: a node of the gang was preempted")
    if isinstance(error, ray.train.ControllerError):
        cause = error.controller_failure
        kind = type(cause).__name__
        if kind in ("WorkerGroupStartupTimeoutError", "WorkerGroupStartupFailedError"):
            return NodeLost(f"{name}: the gang could not be started: {first_line(cause)}")
        return StageError(f"{name}: Ray Train failed: {kind}: {first_line(cause)}")
    if isinstance(error, exceptions.RayError):
        return _of_rank(name, None, error)
    return StageError(f"{name}: Ray Train failed: {type(error).__name__}: {first_line(error)}")


def _of_rank(name: str, rank: int | None, error: BaseException) -> PipelineError:
    who = f"{name}: " + ("the controller" if rank is None else f"rank {rank}")
    error = getattr(error, "health_check_failure", error)  # a failed health check carries the cause of the failure
    error = getattr(error, "_base_exc", error)
    if isinstance(error, exceptions.RayTaskError):
        error = error.cause
    if isinstance(error, PipelineError):
        return error
    text = str(error)
    if isinstance(error, exceptions.ActorUnavailableError):  # said at once, before Ray knows whether process or node is gone
        return WorkerDied(f"{who}: its process died", reason="unknown")
    if isinstance(error, exceptions.RayActorError):
        if error.preempted or "node has died" in text or "node was terminated" in text:
            return NodeLost(f"{who}: its node is gone")
        if "running low on memory" in text or "out of memory" in text.lower():
            return WorkerDied(f"{who} was killed because its node ran out of memory", reason="memory")
        return WorkerDied(f"{who}: its process died (killed, or crashed in native code)", reason="crash")
    if isinstance(error, exceptions.NodeDiedError | exceptions.ObjectLostError | exceptions.LocalRayletDiedError):
        return NodeLost(f"{who}: its node is gone: {first_line(error)}")
    if isinstance(error, exceptions.OutOfMemoryError):
        return WorkerDied(f"{who} was killed because its node ran out of memory", reason="memory")
    if type(error).__name__ == "WorkerHealthCheckTimeoutError":
        return WorkerDied(f"{who} no longer answers", reason="hung")
    stand_in = StageError(f"{type(error).__name__}: {first_line(error)}")
    return TaskRaised(f"{who}: {stand_in}", error=stand_in, traceback=text)


def _importance(error: PipelineError) -> int:
    """Return where this kind of error stands in the order that the head of the module gives."""
    by_kind: tuple[tuple[type[PipelineError], int], ...] = ((NodeLost, 0), (WorkerDied, 1), (TaskRaised, 3), (PeerLostError, 4))
    return next((order for kind, order in by_kind if isinstance(error, kind)), 2)


# On the ranks ---------------------------------------------------------------------------------------------------


class GangBackend(_TorchBackend):  # type: ignore[misc, unused-ignore]
    """Ray Train's process group, formed after every rank knows its network interface."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(name_interface)
        super().on_start(worker_group, backend_config)


@dataclass
class GangConfig(TorchConfig):  # type: ignore[misc, unused-ignore]
    """The process group of a gang."""

    @property
    def backend_cls(self) -> type[GangBackend]:
        return GangBackend


def name_interface() -> str | None:
    """Tell gloo and NCCL which interface carries this node's Ray address, unless the environment says so already.

    Left alone, gloo takes the address that the host's own name resolves to, often 127.0.1.1, which no other host can reach.
    """
    address = ray.util.get_node_ip_address()
    interface = interface_of(address)
    if interface is None:
        logger.warning("no network interface of this host has the address %s of its Ray node", address)
        return None
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # "=": this one, not all that begin so
    return interface


def interface_of(address: str) -> str | None:
    """Return the name of the network interface that has `address`."""
    for interface, addresses in sorted(psutil.net_if_addrs().items()):
        if any(entry.address.partition("%")[0] == address for entry in addresses):
            return interface
    return None


def rank_main(config: Mapping[str, Any]) -> str | None:
    """Run the entry on this rank; returns the values of all ranks as JSON at rank 0."""
    require_source_root(config["source_root"])
    torch.set_num_threads(max(1, int(config["cpus"])))
    context = ray.train.get_context()
    gang = Gang(context.get_world_rank(), context.get_world_size(), context.get_local_rank())
    try:
        value = resolve(config["entry"])(gang, config["argument"])
        require_plain(value, f"the result of {config['entry']}")
        return _gather(json.dumps(value), gang)
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it travels as what it was
        message = f"{config['entry']}: rank {gang.rank}: {type(error).__name__}: {error}"
        if isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error):
            raise PeerLostError(message) from None
        stand_in = StageError(f"{type(error).__name__}: {error}")
        raise TaskRaised(message, error=stand_in, traceback=traceback.format_exc()) from None


def _gather(text: str, gang: Gang) -> str | None:
    """Bring the ranks' JSON together at rank 0, as one JSON list."""
    if gang.world_size == 1:
        return f"[{text}]"
    mine = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(gang.world_size)]
    dist.all_gather(lengths, torch.tensor([len(mine)]))
    longest = max(int(length) for length in lengths)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(mine)] = mine
    parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(gang.world_size)]
    dist.all_gather(parts, padded)
    if gang.rank != 0:
        return None
    values = [bytes(part[: int(length)].tolist()).decode() for part, length in zip(parts, lengths, strict=True)]
    return "[" + ",".join(values) + "]"
