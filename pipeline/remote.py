"""What runs at the far end of a task: a function found by its name, plain data in and out, and a look at the machine.

    run_named("module:name", argument) → resolve → call → require_plain → value

No Ray here: the same functions run in any process, which is how the tests use them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PreflightError, StageError

PACKAGES = ("pipeline", "stages")
"""The packages that must be the same on every worker."""


def run_named(source_root: str | None, function: str, argument: object) -> object:
    """Run "module:name" on `argument` in this process; see `require_source_root`.

    Raises:
        PreflightError: this process imports the packages from elsewhere than the driver.
        TypeError: the result is not plain data.
    """
    require_source_root(source_root)
    try:
        value = resolve(function)(argument)
    except SystemExit as error:  # Ray would take it for a crash of the worker
        raise StageError(f"{function} called sys.exit({error.code!r})") from error
    require_plain(value, f"the result of {function}")
    return value


def require_source_root(source_root: str | None) -> None:
    """Check that this process imports `pipeline` from the folder the driver has it in, where that is known.

    Raises:
        PreflightError: it comes from elsewhere, for instance from a copy in the folder the run was started in.
    """
    here = str(package_root("pipeline"))
    if source_root is not None and here != source_root:
        raise PreflightError(
            f"the workers import `pipeline` from {here}, the driver from {source_root}: start from a folder that holds no other copy of it"
        )


def node_report(argument: Mapping[str, Any]) -> dict[str, Any]:
    """Say what this machine would run, and what it reads of the storage; see `Cluster.handshake`."""
    report: dict[str, Any] = {
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "code": code_digest(),
        "libraries": {},
        "token": None,
        "error": "",
    }
    for package in argument["libraries"]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            report["libraries"][package] = importlib.metadata.version(package)
    try:
        report["token"] = resolve(argument["reader"])(argument["argument"])
    except Exception as error:  # noqa: BLE001 - whatever keeps this node from the storage is the answer
        report["error"] = f"{type(error).__name__}: {error}"
    return report


def resolve(function: str) -> Callable[..., Any]:
    """Import "module:name"."""
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def require_plain(value: object, where: str) -> None:
    """Check that `value` is made of dict (with string keys), list, tuple, str, int, float, bool, bytes and None.

    Raises:
        TypeError: names the place of the first part that is not.
    """
    if value is None or type(value) in (str, int, float, bool, bytes):
        return
    if type(value) is dict:
        for key, part in value.items():
            if type(key) is not str:
                raise TypeError(f"{where} has the key {key!r} of type {type(key).__name__}: only str is allowed")
            require_plain(part, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for position, part in enumerate(value):  # type: ignore[arg-type]
            require_plain(part, f"{where}[{position}]")
    else:
        raise TypeError(f"{where} is of type {type(value).__name__}: only plain data (dict, list, str, numbers, bytes, None) may cross")


def code_digest() -> str:
    """Return the sha256 of this program's source as this process would import it."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for folder in package_folders(package):
            for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts):
                relative = path.relative_to(folder)
                # Of this machine alone: what Python and numba (.nbi, .nbc) compiled here.
                if not path.is_file() or any(part == "__pycache__" or part.startswith(".") for part in relative.parts):
                    continue
                content = path.read_bytes()
                digest.update(f"{package}/{relative.as_posix()}\0{len(content)}\0".encode())
                digest.update(content)
    return digest.hexdigest()


def package_folders(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    return [Path(folder).resolve() for folder in (spec.submodule_search_locations or [])] if spec else []


def package_root(package: str) -> Path:
    return package_folders(package)[0].parent
