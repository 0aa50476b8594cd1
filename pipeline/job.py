"""A run as a job of a Ray cluster: sent, followed line by line, and ended with the run's own exit code.

    file + overrides -> entrypoint, quoted, and the current folder -> job server -> log, joined again where the stream breaks -> code

A job server may cut the stream while the job runs: so the status is asked until it is final, and what was printed is not printed again.
The token is taken where Ray finds it (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token) and never put in the job's environment,
which the job API shows to everyone with the token.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, InterruptedRunError, PreflightError, StageError
from pipeline.storage import without_userinfo

EXCLUDES = (
    ".git", ".venv", "venv", "__pycache__", "*.pyc", "*.egg-info", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis",
    "mlruns", "mlflow.db",
)  # fmt: skip
"""Never sent with the folder; `.gitignore` and `.rayignore` there add to it."""
SILENCE_S = 600.0
"""So long may the job server be out of reach before we give up following."""

_EXIT = re.compile(r"PIPELINE_EXIT=(\d+)\s*\Z")
_USER_INFO = re.compile(r"://[^/@\s]*:[^/@\s]*@")
_FINAL = ("SUCCEEDED", "FAILED", "STOPPED")


def submit(address: str, file: Path, overrides: Sequence[str], echo: Callable[[str], object]) -> int:
    """Run `file` as a job of the cluster whose job server is at `address` (http://head:8265), print its log, return the run's exit code.

    Raises:
        ConfigError: the file lies outside the current folder, which is what is sent; or an override holds a password.
        PreflightError: the server cannot be reached, or wants a token that is not here.
        StageError: the server was out of reach for too long; the job may go on.
        InterruptedRunError: Ctrl-C: following ends, the job goes on; the message says how to stop it.
    """
    entrypoint = command(file, overrides, Path.cwd())
    with _environment(address):
        client = _client(address)
        runtime_env = {"working_dir": ".", "excludes": list(EXCLUDES)}
        try:
            name = str(client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env, metadata={"pipeline": str(file)}))
        except Exception as error:
            raise PreflightError(f"the job was not taken by {without_userinfo(address)}: {_brief(error)}") from error
        echo(f"job {name} at {without_userinfo(address)}: {entrypoint}")
        stop = f"ray job stop --address {shlex.quote(without_userinfo(address))} {name}"
        try:
            return _Follower(client, name, echo, f"To stop the job: {stop}").follow()
        except KeyboardInterrupt:
            raise InterruptedRunError(f"no longer following job {name}, which goes on. To stop it: {stop}") from None


def command(file: Path, overrides: Sequence[str], folder: Path) -> str:
    """The shell command that runs `file` in a copy of `folder`, every argument quoted.

    Raises:
        ConfigError: see `submit`.
    """
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ConfigError(f"{file} lies outside the current folder, {folder}, which is what a job gets. Start from a folder that holds it.")
    for override in overrides:
        if _USER_INFO.search(override):
            raise ConfigError(
                f"the override {override.partition('=')[0]} holds a password, which the job API would show. "
                "Set a variable on the cluster and write ${env:NAME}."
            )
    return shlex.join(["python", "-m", "pipeline", "run", path.relative_to(folder.resolve()).as_posix(), *overrides])


@contextlib.contextmanager
def _environment(address: str) -> Iterator[None]:
    """Set RAY_AUTH_MODE, as it must be before the import, and hide addresses that Ray would take instead of the one given."""
    before = dict(os.environ)
    if not os.environ.get("RAY_AUTH_MODE"):
        given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        os.environ["RAY_AUTH_MODE"] = "token" if given or (Path.home() / ".ray" / "auth_token").exists() else "disabled"
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _client(address: str) -> Any:
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"--address {without_userinfo(address)}: give the job server's address, as http://head:8265.")
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:
        text = _brief(error)
        if "401" in text or "403" in text or "uthentication" in text:
            text += " Give the cluster's token: export RAY_AUTH_TOKEN_PATH=/path/to/token"
        raise PreflightError(f"no job server answers at {without_userinfo(address)}: {text}") from error


class _Follower:
    """Prints a job's log as it grows, and waits for its end."""

    def __init__(self, client: Any, name: str, echo: Callable[[str], object], stop: str) -> None:
        self._client, self._name, self._echo, self._stop = client, name, echo, stop
        self._seen = 0
        self._rest = ""
        self._code: int | None = None
        self._heard_at_s = time.monotonic()

    def follow(self) -> int:
        pause_s = 0.5
        while True:
            before = self._seen
            with contextlib.suppress(Exception):  # the stream may break in any way; the status below is what counts
                asyncio.run(self._tail())
            info = self._info()
            if info is not None and str(info.status) in _FINAL:
                break
            if time.monotonic() - self._heard_at_s > SILENCE_S:
                raise StageError(f"the job server was out of reach for {SILENCE_S:.0f} s; job {self._name} may go on. {self._stop}")
            pause_s = 0.5 if self._seen > before else min(2 * pause_s, 10.0)
            time.sleep(pause_s)
        with contextlib.suppress(Exception):
            self._print(str(self._client.get_job_logs(self._name))[self._seen :])
        if self._rest:
            self._print("\n")
        return self._exit_code(info)

    async def _tail(self) -> None:
        """Print what is new; a stream that is joined again begins with the first line."""
        skip = self._seen
        try:
            async for chunk in self._client.tail_job_logs(self._name):
                self._heard_at_s = time.monotonic()
                new = chunk[skip:] if skip < len(chunk) else ""
                skip = max(0, skip - len(chunk))
                self._print(new)
        finally:
            # Ctrl-C cancels this task, and the stream may take that for an end or a fault of its own.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError

    def _print(self, text: str) -> None:
        self._seen += len(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._echo(line)
            if found := _EXIT.match(line):
                self._code = int(found[1])

    def _info(self) -> Any:
        try:
            info = self._client.get_job_info(self._name)
        except Exception:  # noqa: BLE001 - out of reach for now; `follow` counts the time
            return None
        self._heard_at_s = time.monotonic()
        return info

    def _exit_code(self, info: Any) -> int:
        """The run's own code: as the job server knows it, else as the run printed it, else what the status means."""
        status, code = str(info.status), info.driver_exit_code
        if code is not None and code < 0:
            code = 128 - code
        if code is None:
            code = self._code
        if status == "SUCCEEDED":
            return code or 0
        if status == "STOPPED":
            self._echo(f"job {self._name} was stopped")
            return code or 143
        if self._seen == 0 and info.message:
            for line in str(info.message).splitlines():
                self._echo(line)
        return code or StageError.exit_code


def _brief(error: BaseException) -> str:
    """The first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
