"""Starting a Ray on this machine, or joining one that runs. Part of the door that is `pipeline.cluster`.

    start_local: private folder (0700) → token (0600) → environment → ray.init on 127.0.0.1
    join:        token where there is one → code by py_modules unless the job sends it → ray.init(address)

Whatever was changed (environment, folder, processes) is undone through the `cleanup` stack that is passed in.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sysconfig
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from pipeline.errors import InterruptedRunError, PreflightError
from pipeline.remote import PACKAGES, package_folders

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 15.0
_OBJECT_STORE_BYTES = 200_000_000  # results are small records; text and tokens travel through files
_MAX_RAY_FOLDER_LENGTH = 43  # a socket's path has at most 107 bytes, of which Ray appends 64


def start_local(num_cpus: int, temp_dir: Path | None, *, cleanup: contextlib.ExitStack) -> Path:
    """Start Ray on the loopback interface, with a fresh token that only this user can read; return its private folder."""
    folder = _private_folder(temp_dir, cleanup)
    token = folder / "token"
    with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    variables = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),  # a path, so that no child sees the token itself in its environment
        "RAY_AUTH_TOKEN": None,
        # With this Ray takes 127.0.0.1 for the node's address, and then all of its servers listen there alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # How long a part of Ray goes on without its head, which here is on the same machine; 60 s otherwise.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "PYTHONPATH": _worker_python_path(),
    }
    cleanup.enter_context(environment(variables))
    ray = _import_ray(on_loopback=True)
    try:
        ray.init(
            address="local",  # never the Ray that happens to run on this machine
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=str(folder / "r"),  # Ray makes its own folder world-writable: the private one lies around it
        )
    except InterruptedRunError:
        ray.shutdown()
        raise
    except Exception as error:
        ray.shutdown()
        raise PreflightError(f"Ray could not be started on this machine: {first_line(error)}") from error
    cleanup.callback(ray.shutdown, wait_for_processes=True)
    _end_what_nobody_asks(ray)
    return folder


def _end_what_nobody_asks(ray: Any) -> None:
    """End the parts of a local Ray that serve a cluster: autoscaler, dashboard, and the one that sends workers' logs here. They hold 170 MB."""
    node = ray._private.worker._global_node
    for end in (node.kill_monitor, node.kill_dashboard, node.kill_log_monitor):
        end(check_alive=False)


def join(address: str, *, code: bool, cleanup: contextlib.ExitStack) -> None:
    """Join a running Ray, with its token where there is one."""
    variables: dict[str, str | None] = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    if not os.environ.get("RAY_AUTH_MODE"):
        has_token = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        has_token = has_token or (Path.home() / ".ray" / "auth_token").exists()
        variables["RAY_AUTH_MODE"] = "token" if has_token else "disabled"
    cleanup.enter_context(environment(variables))
    runtime_env: dict[str, Any] = {}
    if code and not _job_has_code():
        runtime_env["py_modules"] = [str(folder) for package in PACKAGES for folder in package_folders(package)[:1]]
    _require_listener(address)
    ray = _import_ray(on_loopback=False)
    _require_listener(_as_ray_sees(address))
    try:
        ray.init(address=address, runtime_env=runtime_env or None, log_to_driver=False, configure_logging=False)
    except InterruptedRunError:
        ray.shutdown()
        raise
    except Exception as error:
        ray.shutdown()
        raise PreflightError(
            f"no Ray could be joined at {address!r}: {first_line(error)}. Is it running, is this one of its machines, "
            f"and is its token here (RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']!r})?"
        ) from error
    cleanup.callback(ray.shutdown)


def _as_ray_sees(address: str) -> str:
    """The address that Ray will try: it takes the loopback interface for this machine's own address, where a head on loopback alone never answers."""
    from ray._private import services

    host, _, port = address.rpartition(":")
    return address if address == "auto" or not host else f"{services.resolve_ip_for_localhost(host)}:{port}"


def _require_listener(address: str) -> None:
    """Fail at once where nothing listens; Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (ValueError, OSError) as error:
        raise PreflightError(
            f"no Ray could be joined at cluster.address {address!r}: {error}. It must be host:port of a running head, usually port 6379."
        ) from error


def _job_has_code() -> bool:
    """Whether `ray job submit` already sends a working_dir or modules to the workers."""
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    sent = config.get("runtime_env") or {}
    return bool(sent.get("working_dir") or sent.get("py_modules"))


def _import_ray(*, on_loopback: bool) -> Any:
    """Import Ray, quiet, with the settings of the environment as it is now, even if it was imported before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import ray
    from ray._private import ray_constants, worker

    if ray.is_initialized():
        raise RuntimeError("a Ray is open in this process already: close its Cluster first")
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray_constants.ENABLE_RAY_CLUSTER = not on_loopback
    compiled = importlib.import_module("ray._raylet")  # it has no types
    compiled.Config.initialize("")
    compiled.AuthenticationTokenLoader.instance().reset_cache()
    # Ray prints "(raylet) A worker died ..." on the driver's standard output, whose last line is ours. The death
    # itself is raised by `Cluster.result`.
    worker.print_to_stdstream = _log_ray_message
    return ray


def _log_ray_message(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
    for line in data.get("lines", ()):
        logger.debug("ray %s: %s", data.get("pid"), line)


def _worker_python_path() -> str:
    """Return a PYTHONPATH by which workers import the driver's copy of our packages."""
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
    roots = {str(folder.parent): None for package in PACKAGES for folder in package_folders(package) if folder.parent not in installed}
    return os.pathsep.join([*roots, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _private_folder(temp_dir: Path | None, cleanup: contextlib.ExitStack) -> Path:
    """Make a folder of mode 0700, removed at the end; sweep those whose run was killed."""
    parent = Path(tempfile.gettempdir()) if temp_dir is None else temp_dir.absolute()
    if len(os.fsencode(parent / "xlm-12345678" / "r")) > _MAX_RAY_FOLDER_LENGTH:
        parent = Path("/tmp")  # noqa: S108 - the name below it is random and the mode 0700
    parent.mkdir(parents=True, exist_ok=True)
    for stale in parent.glob("xlm-????????"):
        with contextlib.suppress(OSError), _locked(stale / "lock", create=False):
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="xlm-", dir=parent))
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    # Locked before it has the name that a sweep looks for.
    cleanup.enter_context(_locked(folder / "new", create=True))
    (folder / "new").rename(folder / "lock")
    return folder


@contextlib.contextmanager
def _locked(path: Path, *, create: bool) -> Iterator[IO[bytes]]:
    """Hold a lock that the system gives back when this process dies, however it dies."""
    with path.open("ab" if create else "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file


@contextlib.contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Set and unset variables, and put back what was there."""
    before = {name: os.environ.get(name) for name in changes}

    def apply(values: Mapping[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    apply(changes)
    try:
        yield
    finally:
        apply(before)


@contextlib.contextmanager
def kept_signal_handlers() -> Iterator[None]:
    """Put back the handlers that were installed before; elsewhere than on the main thread Ray leaves them alone."""
    on_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if on_main_thread:
            for number, handler in before.items():
                if handler is not None:  # none: it was not set from Python, and cannot be
                    signal.signal(number, handler)


def first_line(error: BaseException) -> str:
    """Return the first line of an error that says something."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
