"""Leases with heartbeat: one live run a pipeline, one writer a training output.

A lease is a small JSON file that only one can make: token, holder, and a counter that a thread raises every few seconds. It is stale when
its holder is provably dead (same host, boot and process namespace, and no process with that pid *and* start time), or when its counter has
not moved for `ttl_s` of our own monotonic clock: never by pid alone, never by comparing clocks of two hosts. `check` compares the token
before a commit, so that a holder whose lease was taken over is refused. Object stores use a create-only put where the file system
offers one.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import LockedError
from pipeline.storage import Storage, canonical

log = logging.getLogger(__name__)

BEAT_S = 5.0
TTL_S = 60.0


def identity() -> dict[str, Any]:
    """Who we are, so that others on this machine can tell whether we still live."""
    return {
        "host": socket.gethostname(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "started": _process_start(os.getpid()),
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """The kernel's start time of a process in ticks, or '' where there is none (or it is a zombie)."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else ""


def provably_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine, in this boot and namespace, and its process is gone."""
    mine = identity()
    if not holder.get("boot") or any(holder.get(k) != mine[k] for k in ("host", "boot", "namespace")):
        return False
    return _process_start(int(holder.get("pid", 0))) != holder.get("started")


class Lease:
    """A held lease; made by `hold`."""

    def __init__(self, storage: Storage, path: str, holder: dict[str, Any]) -> None:
        self._storage, self._path, self._holder = storage, path, holder
        self._beat = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    @property
    def token(self) -> str:
        """The fence token of this holder."""
        return str(self._holder["token"])

    def check(self) -> None:
        """Make sure that the lease is still ours, before a commit.

        Raises:
            LockedError: another run has taken it over.
        """
        found = _read(self._storage, self._path)
        if found is None or found.get("token") != self.token:
            raise LockedError(f"{self._storage.url(self._path)} was taken over by {_name(found)}; this run stops without publishing.")

    def start(self) -> None:
        """Start the heartbeat."""
        self._thread.start()

    def release(self) -> None:
        """Stop the heartbeat and give the lease back, if it is still ours."""
        self._stop.set()
        self._thread.join(timeout=2 * BEAT_S)
        with _guard(self._storage, self._path):
            found = _read(self._storage, self._path)
            if found is not None and found.get("token") == self.token:
                self._storage.remove(self._path)

    def _run(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                if not self._beat_once():
                    return
            except Exception as error:  # noqa: BLE001 - a store that fails for a moment must not end the heartbeat
                log.warning("the heartbeat of %s failed: %s", self._storage.url(self._path), error)

    def _beat_once(self) -> bool:
        # Under the guard, so that a takeover never falls between the look and the write.
        with _guard(self._storage, self._path):
            found = _read(self._storage, self._path)
            if found is None or found.get("token") != self.token:
                return False
            self._beat += 1
            _write(self._storage, self._path, {**self._holder, "beat": self._beat})
        return True


def _name(holder: dict[str, Any] | None) -> str:
    if not holder:
        return "another run"
    return f"run {holder.get('run', '?')} (pid {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')})"


def _read(storage: Storage, path: str) -> dict[str, Any] | None:
    try:
        found = json.loads(storage.read(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(storage: Storage, path: str, holder: dict[str, Any]) -> None:
    if storage.is_local:
        target = Path(storage.root) / path
        temporary = _temporary(target, holder)
        try:
            temporary.write_bytes(canonical(holder))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    else:
        storage.write(path, canonical(holder))


def _temporary(target: Path, holder: dict[str, Any]) -> Path:
    """The holder's own: only one thread of one process writes it, and whoever takes over from the dead removes it."""
    return target.with_name(f"tmp.{holder['token']}")


def _create(storage: Storage, path: str, holder: dict[str, Any]) -> bool:
    if storage.is_local:
        target = Path(storage.root) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # A full file linked into place: a reader never sees an empty lease, and the link fails if one is there.
        temporary = _temporary(target, holder)
        try:
            temporary.write_bytes(canonical(holder))
            os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True
    if storage.exists(path):
        return False
    import fsspec

    filesystem, base = fsspec.core.url_to_fs(storage.root)
    try:
        filesystem.pipe_file(f"{base.rstrip('/')}/{path}", canonical(holder), mode="create")
    except FileExistsError:
        return False
    except TypeError:
        storage.write(path, canonical(holder))
    return True


@contextmanager
def _guard(storage: Storage, path: str) -> Iterator[None]:
    """On a local root only one process at a time looks at a lease and then changes or removes it."""
    if not storage.is_local:
        yield
        return
    guard = Path(storage.root) / f"{path}.guard"
    guard.parent.mkdir(parents=True, exist_ok=True)
    with guard.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def hold(storage: Storage, path: str, run: str, *, wait_s: float = 0.0, ttl_s: float = TTL_S) -> Iterator[Lease]:
    """Hold the lease at `path` for the block; waits up to `wait_s` for a live holder.

    Raises:
        LockedError: a live holder has it; the message names it.
    """
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    holder = {**identity(), "token": secrets.token_hex(16), "run": run, "since": since, "beat": 0}
    deadline = time.monotonic() + wait_s
    watched: tuple[Any, float] | None = None
    beating = False
    while not _create(storage, path, holder):
        found = _read(storage, path)
        if found is None:
            continue
        mark = (found.get("token"), found.get("beat"))
        if watched is None or watched[0] != mark:
            beating = watched is not None and watched[0][0] == mark[0]
            watched = (mark, time.monotonic())
        stale = (bool(found) and provably_dead(found)) or time.monotonic() - watched[1] > ttl_s
        if stale:
            with _guard(storage, path):
                again = _read(storage, path)
                if again is not None and (again.get("token"), again.get("beat")) == mark:
                    storage.remove(path)
                    if storage.is_local and str(again.get("token", "")).isalnum():
                        _temporary(Path(storage.root) / path, again).unlink(missing_ok=True)  # killed in the middle of a heartbeat
            watched = None
            continue
        # A holder elsewhere counts as alive once its counter was seen to move; until then we watch it for up to `ttl_s`.
        here = all(found.get(k) == holder[k] for k in ("host", "boot", "namespace"))
        if time.monotonic() >= deadline and (here or beating):
            raise LockedError(f"{storage.url(path)} is held by {_name(found)}. Wait for it, or give `--wait SECONDS`.", holder=_name(found))
        time.sleep(0.2)
    lease = Lease(storage, path, holder)
    lease.start()
    try:
        yield lease
    finally:
        lease.release()
