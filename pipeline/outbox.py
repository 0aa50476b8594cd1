"""Records on their way to a server that may be down: written to disk first, delivered by a thread, kept until they arrived.

    send(record) → <root>/<session>/00000007.json → courier thread → deliver(session, record) → the file is removed
                                                        │ unreachable: one warning, tried again later
    the session ends, or is killed, with records left ──┴─► the next run's courier finds the folder unlocked and delivers it

A record is delivered in order and at least once: a process killed between delivery and removal makes the next one repeat it,
so `deliver` must be such that a repetition changes nothing. A record that the server refuses for good is dropped with a warning,
lest it block all behind it. Nothing here raises: what is sent is never worth a failed run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

logger = logging.getLogger(__name__)

ATTACHMENT_MAX_BYTES = 16 * 2**20
"""A file up to this size is copied into the outbox; a larger one must stay where it is until it is delivered."""
_FIRST_RETRY_S = 2.0
_LAST_RETRY_S = 60.0


class UnreachableError(Exception):
    """The server cannot be had now; the same record may well arrive later."""


class Session:
    """One process's records, in a folder that it holds a lock on for as long as it lives."""

    def __init__(self, folder: Path, lock: IO[bytes]) -> None:
        self.folder = folder
        self._lock = lock
        self._count = max((int(path.stem) for path in self.pending()), default=0)
        self._adding = threading.Lock()
        state = folder / "state.json"
        self.state: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {}

    @classmethod
    def new(cls, root: Path) -> Session:
        """Make a folder of our own, locked before it has the name that others look for."""
        name = uuid.uuid4().hex
        making = root / f"new-{name}"
        making.mkdir(parents=True)
        lock = (making / "lock").open("ab")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        making.rename(root / name)
        return cls(root / name, lock)

    @classmethod
    def left_behind(cls, root: Path) -> Iterator[Session]:
        """Take over, one by one, the sessions whose processes are dead."""
        for path in sorted(root.glob("*/lock")):
            if path.parent.name.startswith("new-"):
                continue
            with contextlib.suppress(OSError, ValueError):
                lock = path.open("r+b")
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    lock.close()
                    continue
                yield cls(path.parent, lock)

    def add(self, record: Mapping[str, Any], attachment: Path | None = None) -> None:
        """Append a record; an `attachment` (file or folder) goes along as `record["path"]`, by copy where it is small."""
        with self._adding:
            self._count += 1
            name = f"{self._count:08d}"
        content = dict(record)
        if attachment is not None:
            content["path"] = str(self._attached(attachment.absolute(), name))
        self._write(self.folder / f"{name}.json", content)

    def add_text(self, record: Mapping[str, Any], text: str, file_name: str) -> None:
        """Append a record whose attachment is a file of this text."""
        with self._adding:
            self._count += 1
            name = f"{self._count:08d}"
        path = self.folder / "files" / name / file_name
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
        self._write(self.folder / f"{name}.json", {**record, "path": str(path)})

    def pending(self) -> list[Path]:
        """The files of the records not yet delivered, in order."""
        return sorted(path for path in self.folder.glob("*.json") if path.stem.isdigit())

    def remember(self, name: str, value: object) -> None:
        """Keep something for whoever delivers the rest."""
        self.state[name] = value
        self._write(self.folder / "state.json", self.state)

    def done(self, record: Path) -> None:
        """Forget a delivered record and its attachment."""
        shutil.rmtree(self.folder / "files" / record.stem, ignore_errors=True)
        record.unlink(missing_ok=True)

    def close(self) -> None:
        """Give up the lock; an empty session leaves nothing."""
        if not self.pending():
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _attached(self, path: Path, name: str) -> Path:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        if sum(file.stat().st_size for file in files) > ATTACHMENT_MAX_BYTES:
            return path
        target = self.folder / "files" / name / path.name
        target.parent.mkdir(parents=True)
        if path.is_file():
            shutil.copyfile(path, target)
        else:
            shutil.copytree(path, target)
        return target

    @staticmethod
    def _write(path: Path, content: object) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(path)


class Courier:
    """The thread that delivers. `deliver(session, record)` raises `UnreachableError` to be tried again later."""

    def __init__(
        self, root: Path, deliver: Callable[[Session, dict[str, Any]], None], finish: Callable[[Session], None], server: str
    ) -> None:
        """`finish` is called for a dead process's session after its last record; `server` is what warnings call it."""
        self.root = root
        self.session = Session.new(root)
        self._deliver = deliver
        self._finish = finish
        self._server = server
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_reached: bool | None = None
        self._left_is_done = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def send(self, record: Mapping[str, Any], attachment: Path | None = None, *, text: tuple[str, str] | None = None) -> None:
        """Queue a record, with a file or folder, or with a (file name, text) to be one. Never raises for want of disk."""
        try:
            if text is not None:
                self.session.add_text(record, text[1], text[0])
            else:
                self.session.add(record, attachment)
        except OSError as error:
            logger.warning("%s: a record for %s could not be kept and is lost: %s", record.get("do"), self._server, error)
        with self._changed:
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Wait until all that was sent so far has arrived; false if the server cannot be had, or not in time."""
        end = time.monotonic() + timeout_s
        with self._changed:
            self._is_reached = None
            self._changed.notify_all()
            while self.session.pending():
                remaining_s = end - time.monotonic()
                if self._is_reached is False or remaining_s <= 0:
                    return False
                self._changed.wait(min(remaining_s, 0.5))
        return True

    def close(self, timeout_s: float) -> int:
        """Deliver what can be delivered in time; return the number of records that stay for the next run."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        count = len(self.session.pending())
        if count:
            logger.warning("%s: %d records stay in %s; the next run delivers them", self._server, count, self.session.folder)
        if not self._thread.is_alive():
            self.session.close()
        return count

    def _run(self) -> None:
        failures = 0
        while True:
            is_last = self._is_closing  # asked before the work, so that all sent before the closing is tried once more
            try:
                self._deliver_all(self.session)
                self._deliver_left()
                if failures:
                    logger.warning("%s is there again: all figures kept meanwhile were delivered", self._server)
                failures = 0
                self._tell(is_reached=True)
            except UnreachableError as error:
                failures += 1
                if failures == 1:
                    logger.warning(
                        "%s cannot be reached: %s. The run goes on; its figures are kept and delivered later.", self._server, error
                    )
                self._tell(is_reached=False)
            except Exception:  # the thread must live on, whatever happens to one record
                failures += 1
                logger.exception("%s: the outbox failed", self._server)
                self._tell(is_reached=False)
            if is_last:
                return
            self._rest(failures)

    def _rest(self, failures: int) -> None:
        """Sleep until there is something to do, or it is time to try again."""
        end = time.monotonic() + (min(_LAST_RETRY_S, _FIRST_RETRY_S * 2**failures) if failures else float("inf"))
        with self._changed:
            while not self._is_closing and time.monotonic() < end:
                if not failures and self.session.pending():
                    return
                if failures and self._is_reached is None:  # someone waits for the answer now
                    return
                self._changed.wait(min(end - time.monotonic(), 1.0))

    def _tell(self, *, is_reached: bool) -> None:
        with self._changed:
            self._is_reached = is_reached
            self._changed.notify_all()

    def _deliver_left(self) -> None:
        if self._left_is_done:
            return
        for left in Session.left_behind(self.root):
            try:
                self._deliver_all(left)
                self._finish(left)
            finally:
                left.close()
        self._left_is_done = True

    def _deliver_all(self, session: Session) -> None:
        while pending := session.pending():
            for path in pending:
                try:
                    record = json.loads(path.read_text(encoding="utf-8"))
                    self._deliver(session, record)
                except UnreachableError:
                    raise
                except Exception as error:  # noqa: BLE001 - it would block all behind it
                    logger.warning("%s refused a record, which is dropped: %s", self._server, _one_line(error))
                session.done(path)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for it as long as it takes; the system frees it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
