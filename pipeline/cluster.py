"""The only door to Ray: tasks here, gangs of training processes in `pipeline.gang`.

A run opens one `Cluster`. With no address, and outside a Ray job, it starts Ray on this machine, bound to the loopback
interface, with a token of its own, in a private folder that is removed at the end. In a job, or with an address, it
connects and stops nothing:

    Cluster.open ─┬─ local: folder (0700) → token (0600) → environment → ray.init → workers
                  └─ job or address: code by py_modules unless the job has a working_dir → handshake on every node

    submit("module:name", plain data) → Handle → wait → result: plain data, or
        TaskRaised   the function raised: a fault of the program or of its input
        WorkerDied   its process died alone: killed, crashed, out of memory, cancelled
        NodeLost     the machine under it went away, which is no fault of the work

Ray never retries here (`max_retries=0`); whoever submits decides. Only plain data crosses, and the function is named, not
sent, so what runs on a worker is always the code that was installed or shipped there. Ray itself is imported by `open`.

The previous handlers of SIGTERM and SIGINT are put back after `ray.init`, which replaces the first: install yours before
or after, as you like.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Mapping
from concurrent import futures
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.connection import first_line, join, kept_signal_handlers, start_local, usable_cores
from pipeline.errors import PreflightError, StageError
from pipeline.remote import node_report, package_root, require_plain, run_named

_HANDSHAKE_TIMEOUT_S = 180.0
_ANSWER_TIMEOUT_S = 3.0
_FREE_WAIT_S = 20.0
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class TaskRaised(StageError):  # noqa: N818 - named for what happened
    """The task's function raised. `error` is the exception, `traceback` its text as the worker saw it."""

    error: BaseException
    traceback: str


class WorkerDied(StageError):  # noqa: N818
    """The process died, or was killed. `reason` is "crash", "memory", "cancelled" or, of a gang's rank, "hung"; "unknown" stays inside `pipeline.gang`."""

    reason: Literal["crash", "memory", "cancelled", "hung", "unknown"]


class NodeLost(StageError):  # noqa: N818
    """The machine under the task failed, was preempted or drained."""


@dataclass(frozen=True)
class ClusterSettings:
    """Where the work runs. Outside identity: no key ever holds one of these."""

    address: str | None = None
    """`host:port` of a running Ray; none starts one here, or joins the one of the job."""
    workers: int | tuple[int, int] = 0
    """Tasks at once, and ranks of a gang; 0 takes all cores; (min, max) lets a cluster grow."""
    cpus_per_worker: float = 1.0
    gpus_per_worker: float | Literal["auto"] = "auto"
    """`auto` is one where any node has a GPU, else none."""
    memory_per_worker: int | None = None
    """In bytes, requested for each rank of a gang."""
    deadline_s: float = 600.0
    """A gang that makes no progress for so long is taken as hung."""


@dataclass(frozen=True, eq=False)
class Handle:
    """A submitted task. Compared by identity."""

    label: str
    function: str
    reference: Any = field(repr=False)
    # Waited for instead of the reference: in Ray's own wait a signal's handler that raises ends in SystemExit(1).
    future: futures.Future[object] = field(repr=False)


@dataclass(frozen=True)
class Node:
    """An alive machine of the cluster, with what it has in all (not what is free)."""

    node_id: str
    name: str
    cpus: float
    gpus: float
    memory_bytes: float


class Cluster:
    """An open connection to Ray; a context manager that undoes what `open` did, and no more."""

    def __init__(self, settings: ClusterSettings, *, folder: Path | None, cleanup: contextlib.ExitStack) -> None:
        self.settings = settings
        self.is_local = folder is not None
        self._folder = folder
        self._cleanup = cleanup
        self._source_root = str(package_root("pipeline")) if self.is_local else None
        self._nodes = _alive_nodes()
        asked = settings.workers if isinstance(settings.workers, int) else settings.workers[1]
        cores = sum(node.cpus for node in self._nodes)
        self.workers: int = asked or max(1, int(cores / settings.cpus_per_worker))
        """Tasks that may run at once."""
        has_gpu = any(node.gpus for node in self._nodes)
        self.gpus_per_worker: float = float(has_gpu) if settings.gpus_per_worker == "auto" else settings.gpus_per_worker

    @classmethod
    def open(cls, settings: ClusterSettings, *, temp_dir: Path | None = None, code: bool = True) -> Cluster:
        """Start Ray here, or connect to the running one that `settings.address` or the job's environment names.

        `temp_dir` is where a local Ray keeps its sockets and logs (if its path is short enough for a socket, else the
        system's folder for such things). `code` sends this program's packages along where the job does not.

        Raises:
            PreflightError: Ray cannot be started or reached, or an address of a kind that cannot work is given.
        """
        address = settings.address or os.environ.get("RAY_ADDRESS") or None
        if address and "://" in address:
            raise PreflightError(
                f"cluster.address is {address!r}: only host:port of Ray itself is allowed, on a machine of that cluster. "
                "From elsewhere use `ray job submit --address ... -- python -m pipeline run ...`."
            )
        cleanup = contextlib.ExitStack()
        try:
            with kept_signal_handlers():
                if address:
                    join(address, code=code, cleanup=cleanup)
                    folder = None
                else:
                    folder = start_local(_local_cpus(settings), temp_dir, cleanup=cleanup)
            return cls(settings, folder=folder, cleanup=cleanup)
        except BaseException:
            cleanup.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; stop Ray if `open` started it. Tasks still running are killed."""
        self._cleanup.close()

    def submit(self, function: str, argument: object, *, cpus: float = 1, memory_bytes: int | None = None, label: str = "") -> Handle:
        """Queue `function` ("module:name", imported on the worker) on `argument`.

        Raises:
            PreflightError: no node is large enough; Ray would keep the task pending for ever.
            TypeError: `argument` is not plain data.
        """
        import ray

        require_plain(argument, "the argument")
        self.require(cpus=cpus, memory_bytes=memory_bytes, what=label or function)
        remote = ray.remote(run_named).options(
            num_cpus=cpus, memory=memory_bytes, max_retries=0, retry_exceptions=False, name=label or function
        )
        return self._start(remote, function, argument, label or function)

    def wait(self, handles: Collection[Handle], timeout_s: float) -> list[Handle]:
        """Return those of `handles` that are finished, however they ended, in the order given.

        Returns as soon as there is one; an empty list after `timeout_s`.
        """
        futures.wait([handle.future for handle in handles], timeout=timeout_s, return_when=futures.FIRST_COMPLETED)
        return [handle for handle in handles if handle.future.done()]

    def result(self, handle: Handle) -> object:
        """Return what the task returned; blocks until it is finished.

        Raises:
            TaskRaised, WorkerDied, NodeLost: see the head of the module.
            PreflightError: the worker's environment could not be set up.
        """
        from ray import exceptions

        try:
            return handle.future.result()
        except exceptions.RayTaskError as error:
            cause = error.cause
            text = f"{handle.label}: {type(cause).__name__}: {cause}"
            raise TaskRaised(text, error=cause, traceback=_COLOURS.sub("", str(error))) from cause
        except exceptions.OutOfMemoryError as error:
            raise WorkerDied(f"{handle.label}: its worker was killed because the node ran out of memory", reason="memory") from error
        except exceptions.TaskCancelledError as error:
            raise WorkerDied(f"{handle.label}: cancelled", reason="cancelled") from error
        except exceptions.WorkerCrashedError as error:
            raise WorkerDied(f"{handle.label}: its worker process died (killed, or crashed in native code)", reason="crash") from error
        except (exceptions.NodeDiedError, exceptions.ObjectLostError, exceptions.LocalRayletDiedError) as error:
            raise NodeLost(f"{handle.label}: its node is gone: {first_line(error)}") from error
        except exceptions.TaskUnschedulableError as error:
            raise NodeLost(f"{handle.label}: the node it was meant for is gone: {first_line(error)}") from error
        except exceptions.RuntimeEnvSetupError as error:
            raise PreflightError(f"{handle.label}: a worker could not be set up: {first_line(error)}") from error
        except exceptions.UnserializableException as error:  # raised, but it cannot be built again from what was sent
            traceback = _COLOURS.sub("", str(error)).partition("Original exception:\n")[2].strip()
            stand_in = StageError(traceback.rpartition("\n")[2])
            raise TaskRaised(f"{handle.label}: {stand_in}", error=stand_in, traceback=traceback) from error
        except exceptions.RayError as error:
            raise StageError(f"{handle.label}: Ray failed: {type(error).__name__}: {first_line(error)}") from error

    def cancel(self, handle: Handle) -> None:
        """Kill the task, even if it ignores exceptions or is stopped; its `result` is then WorkerDied ("cancelled")."""
        import ray

        ray.cancel(handle.reference, force=True)

    def nodes(self) -> list[Node]:
        """Return the machines that are alive now, by name."""
        return _alive_nodes()

    def free_nodes(self, wait_s: float = _FREE_WAIT_S) -> list[Node]:
        """Return the machines that a gang could be started on, each with what is free of it.

        They are alive, not about to be taken away, and answer at the port of their Ray: one that was cut off or killed a moment ago counts
        as alive for some 20 s more. What ended a moment ago gives its places back by and by, so waits up to `wait_s` for all to be free.
        """
        end = time.monotonic() + wait_s
        while True:
            whole, free = _usable_nodes(ask=not self.is_local)
            if [(n.cpus, n.gpus) for n in free] == [(n.cpus, n.gpus) for n in whole] or time.monotonic() >= end:
                return free
            time.sleep(0.5)

    def require(
        self, *, cpus: float = 1, memory_bytes: int | None = None, gpus: float = 0, workers: int = 1, what: str = "the work"
    ) -> None:
        """Check that `workers` processes of this size could run at once if the cluster did nothing else.

        Raises:
            PreflightError: they never could, whatever else finishes.
        """
        if fits(self._nodes, cpus, memory_bytes or 0, gpus) >= workers:
            return
        self._nodes = _alive_nodes()
        if fits(self._nodes, cpus, memory_bytes or 0, gpus) >= workers:
            return
        needed = {"CPU": cpus * workers, "GPU": gpus * workers, "memory": float((memory_bytes or 0) * workers)}
        ceiling = _autoscaler_ceiling()
        if ceiling is not None and all(amount <= ceiling.get(name, 0) for name, amount in needed.items() if amount):
            return
        present = "; ".join(
            f"{node.name}: {node.cpus:g} CPU, {node.gpus:g} GPU, {node.memory_bytes / 2**30:.1f} GiB" for node in self._nodes
        )
        size = f"{cpus:g} CPU, {gpus:g} GPU, {(memory_bytes or 0) / 2**30:.1f} GiB"
        raise PreflightError(
            f"{what} needs {workers} worker(s) of {size} at once, and the cluster can hold "
            f"{fits(self._nodes, cpus, memory_bytes or 0, gpus)} ({present}). "
            "Lower cluster.workers, cpus_per_worker, gpus_per_worker or the memory asked for, or add nodes."
        )

    def handshake(self, libraries: Mapping[str, str], token_reader: str, token_argument: object) -> None:
        """Before the first unit: every node has this Python minor, this code, these libraries, and sees the storage.

        `libraries` maps a distribution's name to the version here. `token_reader` ("module:name") is called with
        `token_argument` here and on every node, and must return the same plain value: it reads a file that the driver
        has just written to storage. A local Ray is this machine and this environment, and is not asked.

        Raises:
            PreflightError: names every node and package that differs.
        """
        if self.is_local:
            return
        argument = {"libraries": sorted(libraries), "reader": token_reader, "argument": token_argument}
        expected = node_report(argument) | {"libraries": dict(libraries)}
        nodes = self.nodes()
        handles = {self._submit_on(node, "pipeline.remote:node_report", argument): node for node in nodes}
        waiting = set(handles)
        problems: list[str] = []
        while waiting:
            done = self.wait(list(waiting), _HANDSHAKE_TIMEOUT_S)
            if not done:
                problems += [f"node {handles[handle].name} did not answer within {_HANDSHAKE_TIMEOUT_S:g} s" for handle in waiting]
                break
            waiting -= set(done)
            for handle in done:
                problems += self._differences(handle, handles[handle], expected)
        for handle in waiting:
            self.cancel(handle)
        if problems:
            raise PreflightError(
                "the nodes of the cluster are not alike; nothing was run:\n  " + "\n  ".join(sorted(problems)) + "\n"
                "Give every node the same image or virtual environment, and a storage that all of them see."
            )

    def launch_gang(
        self,
        entry: str,
        argument: object,
        *,
        workers: int,
        cpus_per_worker: float | None = None,
        use_gpu: bool | None = None,
        name: str,
        storage: str | None = None,
        deadline_s: float | None = None,
        on_poll: Callable[[], object] | None = None,
    ) -> list[Any]:
        """Run `entry` on `workers` ranks joined in one process group; see `pipeline.gang.launch`."""
        from pipeline import gang

        gpus = self.gpus_per_worker if use_gpu is None else (self.gpus_per_worker or 1.0) * use_gpu
        cpus = self.settings.cpus_per_worker if cpus_per_worker is None else cpus_per_worker
        self.require(cpus=cpus, memory_bytes=self.settings.memory_per_worker, gpus=gpus, workers=workers, what=name)
        size = gang.RankSize(cpus=cpus, gpus=gpus, memory_bytes=self.settings.memory_per_worker)
        deadline = self.settings.deadline_s if deadline_s is None else deadline_s
        return gang.launch(
            entry,
            argument,
            workers=workers,
            size=size,
            name=name,
            storage=storage or (None if self._folder is None else str(self._folder)),  # swept with it, should we be killed
            deadline_s=deadline,
            on_poll=on_poll,
            source_root=self._source_root,
        )

    def _submit_on(self, node: Node, function: str, argument: object) -> Handle:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        require_plain(argument, "the argument")
        strategy = NodeAffinitySchedulingStrategy(node_id=node.node_id, soft=False)
        remote = ray.remote(run_named).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy, name=function)
        return self._start(remote, function, argument, f"node {node.name}")

    def _start(self, remote: Any, function: str, argument: object, label: str) -> Handle:
        reference = remote.remote(self._source_root, function, argument)
        return Handle(label, function, reference, reference.future())

    def _differences(self, handle: Handle, node: Node, expected: dict[str, Any]) -> list[str]:
        try:
            found = self.result(handle)
        except StageError as error:
            return [f"node {node.name} cannot do a task: {error}"]
        assert isinstance(found, dict)
        problems = [
            f"node {node.name} has {what} {found[key]}, here it is {expected[key]}"
            for key, what in (("python", "Python"), ("code", "code of this program with digest"))
            if found[key] != expected[key]
        ]
        for package, version in sorted(expected["libraries"].items()):
            if found["libraries"].get(package) != version:
                problems.append(f"node {node.name} has {package} {found['libraries'].get(package)}, here it is {version}")
        if found["error"]:
            problems.append(f"node {node.name} cannot read the storage: {found['error']}")
        elif found["token"] != expected["token"]:
            problems.append(f"node {node.name} reads another storage: it finds {found['token']!r}, the driver wrote {expected['token']!r}")
        return problems


# What the cluster has -------------------------------------------------------------------------------------------


def _local_cpus(settings: ClusterSettings) -> int:
    """CPUs a local Ray is told it has: what the workers take, so that no more tasks than `workers` run at once."""
    asked = settings.workers if isinstance(settings.workers, int) else settings.workers[1]
    return max(1, math.ceil(asked * settings.cpus_per_worker) if asked else usable_cores())


def _alive_nodes() -> list[Node]:
    import ray

    nodes = []
    for entry in ray.nodes():
        if entry["Alive"]:
            has = entry["Resources"]
            name = f"{entry['NodeManagerHostname']} ({entry['NodeManagerAddress']})"
            nodes.append(Node(entry["NodeID"], name, has.get("CPU", 0.0), has.get("GPU", 0.0), has.get("memory", 0.0)))
    return sorted(nodes, key=lambda node: (node.name, node.node_id))


def _usable_nodes(*, ask: bool) -> tuple[list[Node], list[Node]]:
    """The nodes that take work, with all they have and with what is free; `ask` them whether they are there, too."""
    import ray
    from ray._private.state import state

    draining = state.get_draining_nodes()
    entries = {entry["NodeID"]: entry for entry in ray.nodes() if entry["Alive"] and entry["NodeID"] not in draining}
    if ask:
        with futures.ThreadPoolExecutor(max_workers=64) as pool:
            answers = pool.map(lambda entry: answers_at(entry["NodeManagerAddress"], entry["NodeManagerPort"]), entries.values())
            entries = {name: entry for (name, entry), is_there in zip(entries.items(), answers, strict=True) if is_there}
    free = state.available_resources_per_node()
    whole = [node for node in _alive_nodes() if node.node_id in entries]
    left = [
        replace(node, cpus=has.get("CPU", 0.0), gpus=has.get("GPU", 0.0), memory_bytes=has.get("memory", 0.0))
        for node in whole
        for has in (free.get(node.node_id, {}),)
    ]
    return whole, left


def answers_at(address: str, port: int, timeout_s: float = _ANSWER_TIMEOUT_S) -> bool:
    """Whether anything listens there."""
    try:
        socket.create_connection((address, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def fits(nodes: Collection[Node], cpus: float, memory_bytes: float, gpus: float) -> int:
    """Count the workers of this size that the empty nodes would hold."""
    count = 0.0
    for node in nodes:
        shares = [has / needs for has, needs in ((node.cpus, cpus), (node.memory_bytes, memory_bytes), (node.gpus, gpus)) if needs]
        count += math.floor(min(shares, default=math.inf) + 1e-9) if shares else 2**31
    return int(count)


def _autoscaler_ceiling() -> dict[str, float] | None:
    """What a cluster that grows by itself may grow to; none where it does not."""
    from ray._private.state import state

    ceiling: dict[str, float] | None = state.get_max_resources_from_cluster_config()
    return ceiling
