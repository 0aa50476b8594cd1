"""Tracking against real stores: SQLite files, and a real server that is down in between."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline import tracking as module
from pipeline.errors import PreflightError, StageError
from pipeline.figures import flatten, safe_name
from pipeline.tracking import Tracking

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One empty store, made the real way once; tests take copies, since making it takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    module.make_sqlite_store(folder / "mlflow.db", (folder / "mlartifacts").as_uri())
    return folder / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, made_store: Path) -> Path:
    folder = tmp_path / "mlflow"
    folder.mkdir()
    shutil.copyfile(made_store, folder / "mlflow.db")
    return folder


def client_of(root: Path) -> Any:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{root / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def runs_of(client: Any, experiment: str) -> dict[str, Any]:
    found = client.get_experiment_by_name(experiment)
    return {run.info.run_name: run for run in client.search_runs([found.experiment_id])}


def test_a_pipelines_run_arrives_whole(root: Path, tmp_path: Path) -> None:
    figure = tmp_path / "curve.png"
    figure.write_bytes(b"png")
    model = tmp_path / "model"
    (model / "deep").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "deep" / "weights").write_bytes(b"\x00\xff")
    with Tracking.open(None, "my-xlm", local_root=root) as tracking:
        parent = tracking.start_parent(
            "my-xlm", {"attempt": 3}, {"seed": 1, "stages": {"pretrain": {"lr": 1e-4, "objectives": ["mlm", "tlm"]}}}
        )
        child = tracking.start_child(parent, "pretrain", {"stage": "pretrain"}, {})
        tracking.log_metrics(child, [("loss", 10 - step / 500, step, 1_700_000_000_000 + step) for step in range(2500)])
        tracking.log_metrics(child, [("recall@1", 0.5, 7, 1), ("f1=macro", 0.25, 7, 1)])
        tracking.log_artifact(child, figure, "plots")
        figure.unlink()  # it was taken along
        tracking.log_artifact(child, model, "model")
        tracking.log_text(child, "ünï", "manifests/pretrain.json")
        tracking.log_dataset(child, "corpus", "f" * 64, "s3://user:secret@host/corpus", "pretrain")
        tracking.set_tags(child, {"note": "x" * 9000})
        tracking.end(child, "FINISHED")
        tracking.end(parent, "FAILED")
        assert tracking.flush()
        run_id = tracking.run_id(child)
    client = client_of(root)
    runs = runs_of(client, "my-xlm")
    assert set(runs) == {"my-xlm", "pretrain"}
    assert runs["pretrain"].info.run_id == run_id
    assert runs["pretrain"].data.tags["mlflow.parentRunId"] == runs["my-xlm"].info.run_id
    assert runs["my-xlm"].data.tags["attempt"] == "3"
    assert runs["my-xlm"].data.params == {
        "seed": "1", "stages.pretrain.lr": "0.0001", "stages.pretrain.objectives": '["mlm", "tlm"]'
    }  # fmt: skip
    assert (runs["pretrain"].info.status, runs["my-xlm"].info.status) == ("FINISHED", "FAILED")
    history = client.get_metric_history(run_id, "loss")
    assert [(metric.step, metric.value, metric.timestamp) for metric in history] == [
        (step, 10 - step / 500, 1_700_000_000_000 + step) for step in range(2500)
    ]
    assert runs["pretrain"].data.metrics["recall_at_1"] == 0.5
    assert runs["pretrain"].data.metrics["f1-macro"] == 0.25
    assert [entry.path for entry in client.list_artifacts(run_id, "model")] == ["model/config.json", "model/deep"]
    folder = Path(client.download_artifacts(run_id, "", str(tmp_path)))
    assert (folder / "plots" / "curve.png").read_bytes() == b"png"
    assert (folder / "manifests" / "pretrain.json").read_text(encoding="utf-8") == "ünï"
    assert str(root / "mlartifacts") in runs["pretrain"].info.artifact_uri
    dataset = runs["pretrain"].inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest, json.loads(dataset.source)) == ("corpus", "f" * 36, {"uri": "s3://host/corpus"})
    assert list((root / "outbox").iterdir()) == []


def test_no_password_reaches_the_store_or_the_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise module.UnreachableError("down")

    with monkeypatch.context() as patch:
        patch.setattr(Tracking, "_client", unreachable)
        tracking = Tracking.open(None, "x", local_root=root)
        url = "https://user:hunter2@host/path"
        run = tracking.start_parent("x", {"source": url}, {"url": url, "deep": {"list": [url]}})
        tracking.log_dataset(run, "d", "0", url, "c")
        assert tracking.close(10) == 3
    kept = [path.read_bytes() for path in (root / "outbox").rglob("*") if path.is_file()]
    assert any(b"host/path" in content for content in kept)
    assert not any(b"hunter2" in content for content in kept)
    with Tracking.open(None, "x", local_root=root) as tracking:
        assert tracking.flush()
    assert b"hunter2" not in (root / "mlflow.db").read_bytes()


@pytest.mark.fault("N1")
def test_what_an_outage_held_back_is_delivered_once_by_the_next_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(*_: object) -> None:
        raise module.UnreachableError("connection refused")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Tracking, "_client", unreachable)
        started_at_s = time.monotonic()
        tracking = Tracking.open(None, "x", local_root=root)
        parent = tracking.start_parent("x", {}, {"a": 1})
        for step in range(50):
            tracking.log_metrics(parent, [("loss", step, step, step)])
        assert tracking.register("x", parent, "model", {"digest": "1"}) is None
        assert tracking.run_id(parent) is None
        assert tracking.find_open_runs("x") == []
        with pytest.raises(StageError, match=r"MLflow at sqlite.*did not do it"):
            tracking.promote("x", 1)
        tracking.end(parent, "FINISHED")
        assert tracking.close(10) == 54
        assert time.monotonic() - started_at_s < 20
    assert sum("cannot be reached" in record.message for record in caplog.records) == 1
    for _ in range(2):  # the second finds nothing left to deliver
        with Tracking.open(None, "x", local_root=root) as tracking:
            assert tracking.flush()
    client = client_of(root)
    runs = runs_of(client, "x")
    assert len(runs) == 1
    run = runs["x"]
    assert run.info.status == "FINISHED"
    assert [metric.value for metric in client.get_metric_history(run.info.run_id, "loss")] == list(range(50))
    assert [version.version for version in client.search_model_versions("name = 'x'")] == [1]


class Broken(BaseHTTPRequestHandler):
    """A server that answers 500 to all, or, where `pause_s` is set, takes its time before it does."""

    pause_s = 0.0

    def answer(self) -> None:
        time.sleep(self.pause_s)
        with contextlib.suppress(OSError):
            self.send_error(500)

    do_GET = do_POST = answer

    def log_message(self, format: str, *_: object) -> None:
        pass


@pytest.mark.fault("N1")
@pytest.mark.parametrize("pause_s", [0.0, 30.0])
def test_a_server_that_is_broken_or_slow_holds_up_nobody_and_its_figures_are_kept(tmp_path: Path, pause_s: float) -> None:
    handler = type("Handler", (Broken,), {"pause_s": pause_s})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        tracking = Tracking.open(f"http://127.0.0.1:{server.server_port}", "x", local_root=tmp_path)
        parent = tracking.start_parent("x", {}, {})
        for step in range(20):
            started_at_s = time.monotonic()
            tracking.log_metrics(parent, [("loss", step, step, step)])
            assert time.monotonic() - started_at_s < 5
        started_at_s = time.monotonic()
        assert tracking.close(3) == 21
        assert time.monotonic() - started_at_s < 20
        assert len(list((tmp_path / "outbox").iterdir())) == 1
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.fault("N1")
def test_figures_for_a_locked_database_arrive_once_when_it_is_free(root: Path) -> None:
    with Tracking.open(None, "x", local_root=root) as tracking:
        parent = tracking.start_parent("x", {}, {})
        assert tracking.flush()
        with contextlib.closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            tracking.log_metrics(parent, [("loss", step, step, step) for step in range(5)])
            assert not tracking.flush(8)
            holder.execute("ROLLBACK")
        assert tracking.flush(60)
        run_id = tracking.run_id(parent)
        tracking.end(parent, "FINISHED")
    assert run_id is not None
    assert [metric.value for metric in client_of(root).get_metric_history(run_id, "loss")] == list(range(5))


def test_a_record_that_is_refused_does_not_block_those_behind_it(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Tracking.open(None, "x", local_root=root) as tracking:
        run = tracking.start_parent("x", {}, {"fixed": 1})
        tracking.log_params(run, {"fixed": 2})
        tracking.log_artifact(run, tmp_path / "nothing")
        tracking.log_metrics(run, [("after", 1, 1, 1)])
        assert tracking.flush()
    run_found = runs_of(client_of(root), "x")["x"]
    assert run_found.data.metrics == {"after": 1.0}
    assert run_found.data.params == {"fixed": "1"}
    assert sum("refused a record" in record.message for record in caplog.records) == 1
    assert sum("could not be kept" in record.message for record in caplog.records) == 1


KILLED = """
import sys, time
from pathlib import Path
from pipeline.tracking import Tracking
tracking = Tracking.open(None, "x", local_root=Path(sys.argv[1]))
parent = tracking.start_parent("x", {}, {})
child = tracking.start_child(parent, "clean", {}, {})
tracking.flush()
print("STARTED", flush=True)
time.sleep(120)
"""


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_runs_of_a_killed_driver_are_closed_as_killed_and_live_ones_are_not(root: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(root)], env=child_environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "STARTED\n"
    with Tracking.open(None, "x", local_root=root) as tracking:
        mine = tracking.start_parent("x", {}, {})
        found = tracking.find_open_runs("x")
        assert sorted(run.name for run in found) == ["clean", "x"]
        assert tracking.find_open_runs("other") == []
        assert mine.key not in {run.tags["xlm.key"] for run in found}
        process.kill()
        process.wait()
        tracking.close_dead([run.run_id for run in found])
        assert tracking.flush()
        assert tracking.find_open_runs("x") == []
        statuses = {client_of(root).get_run(run.run_id).info.status for run in found}
        assert statuses == {"KILLED"}
        tracking.end(mine, "FINISHED")


def test_the_next_courier_closes_what_a_dead_one_left_running(root: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(root)], env=child_environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "STARTED\n"
    process.kill()
    process.wait()
    with Tracking.open(None, "x", local_root=root):
        pass
    runs = runs_of(client_of(root), "x")
    assert {run.info.status for run in runs.values()} == {"KILLED"}
    assert list((root / "outbox").iterdir()) == []


def test_there_is_one_champion_and_the_same_steps_again_change_nothing(root: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with Tracking.open(None, "x", local_root=root) as tracking:
        run = tracking.start_parent("x", {}, {})
        tracking.log_artifact(run, model, "model")
        assert tracking.champion("my-xlm") is None
        first = tracking.register("my-xlm", run, "model", {"digest": "aa"})
        assert first == 1
        assert tracking.register("my-xlm", run, "model", {"digest": "aa"}) == 1
        tracking.challenge("my-xlm", 1)
        tracking.promote("my-xlm", 1)
        tracking.promote("my-xlm", 1)
        assert tracking.champion("my-xlm") == (1, {"digest": "aa", "validation_status": "approved"})
        assert tracking.register("my-xlm", run, "model", {"digest": "bb"}) == 2
        tracking.challenge("my-xlm", 2)
        tracking.reject("my-xlm", 2)
        assert tracking.champion("my-xlm") == (1, {"digest": "aa", "validation_status": "approved"})
        tracking.promote("my-xlm", 2)
        champion = tracking.champion("my-xlm")
        assert champion is not None
        assert champion[0] == 2
        with pytest.raises(StageError, match="promoting my-xlm 9: MLflow"):
            tracking.promote("my-xlm", 9)
        assert tracking.champion("my-xlm") == champion
    client = client_of(root)
    model_found = client.get_registered_model("my-xlm")
    assert model_found.aliases == {"champion": 2}
    versions = {int(version.version): version for version in client.search_model_versions("name = 'my-xlm'")}
    assert versions[1].tags["validation_status"] == "replaced"
    assert Path(versions[2].source.removeprefix("file://")).joinpath("config.json").exists()


def test_names_and_values_are_made_fit_for_mlflow() -> None:
    from mlflow.utils.validation import _validate_metric_name

    for name in ("recall@1", "a=b", "x//y", "/x", "../x", "a/./b", "é ü", "ա", "a\nb", "", "...", "x" * 300, "a;b'c\"d"):
        _validate_metric_name(safe_name(name))
    assert safe_name("eval/xnli-en.acc") == "eval/xnli-en.acc"
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": None, "f": "x" * 7000}) == {
        "a.b.c": "1", "a.d": "{}", "e": "null", "f": "x" * 5999 + "…"
    }  # fmt: skip


def test_a_uri_that_mlflow_no_longer_writes_to_is_refused(tmp_path: Path) -> None:
    for uri in ("file:///x/mlruns", "./mlruns", "sqlite:///relative.db"):
        with pytest.raises(PreflightError, match="allowed are"):
            Tracking.open(uri, "x", local_root=tmp_path)


def test_a_folder_that_cannot_be_written_is_said_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightError, match="cannot hold the figures"):
        Tracking.open(None, "x", local_root=tmp_path / "file" / "below")


def test_importing_the_door_imports_no_mlflow() -> None:
    script = (
        "import sys, pipeline.tracking, pipeline.cluster; print([m for m in ('mlflow', 'ray', 'torch', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], env=child_environment(), capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# A fresh store

FIRST = """
import sys, time
from pathlib import Path
from pipeline.tracking import Tracking
with Tracking.open(None, "x", local_root=Path(sys.argv[1])) as tracking:
    run = tracking.start_parent("x", {"who": sys.argv[2]}, {})
    tracking.log_metrics(run, [("loss", 1.0, 1, 1)])
    tracking.end(run, "FINISHED")
    assert tracking.flush(300)
"""


@pytest.mark.slow
def test_eight_processes_on_a_fresh_store_all_work(tmp_path: Path) -> None:
    root = tmp_path / "mlflow"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST, str(root), str(number)], env=child_environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for number in range(8)
    ]
    answers = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, answers
    assert answers == [(b"", b"")] * 8
    client = client_of(root)
    experiment = client.get_experiment_by_name("x")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["who"] for run in runs) == [str(number) for number in range(8)]
    assert all(run.data.metrics == {"loss": 1.0} and run.info.status == "FINISHED" for run in runs)
    with sqlite3.connect(root / "mlflow.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert sorted(path.name for path in root.iterdir()) == ["mlflow.db", "mlflow.db.lock", "outbox"]


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.3, 0.6, 0.8, 0.95])
def test_a_kill_during_the_first_start_leaves_the_next_run_working(tmp_path: Path, part: float, seconds_to_make: float) -> None:
    root = tmp_path / "mlflow"
    command = [sys.executable, "-c", FIRST, str(root), "a"]
    process = subprocess.Popen(command, env=child_environment(), stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list(root.glob("mlflow.db.new-*")) and time.monotonic() < end:  # the making has begun
        time.sleep(0.02)
    time.sleep(seconds_to_make * part)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run([*command[:-1], "b"], env=child_environment(), capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    client = client_of(root)
    runs = client.search_runs([client.get_experiment_by_name("x").experiment_id])
    assert any(run.data.tags["who"] == "b" and run.info.status == "FINISHED" for run in runs)
    assert all(run.info.status in ("FINISHED", "KILLED") for run in runs)
    assert list(root.glob("mlflow.db.new-*")) == []


@pytest.fixture(scope="module")
def seconds_to_make(tmp_path_factory: pytest.TempPathFactory) -> float:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom pipeline.tracking import make_sqlite_store\n"
        "import mlflow.store.tracking.sqlalchemy_store\nstarted = time.monotonic()\n"
        "make_sqlite_store(Path(sys.argv[1]) / 'x.db', '')\nprint(time.monotonic() - started)"
    )
    folder = str(tmp_path_factory.mktemp("timing"))
    done = subprocess.run([sys.executable, "-c", script, folder], env=child_environment(), capture_output=True, text=True, timeout=300)
    return float(done.stdout)


# A server


class Server:
    """An `mlflow server` on the loopback interface, on a port of its own."""

    def __init__(self, folder: Path, store: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.store = store
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.store}", "--artifacts-destination", str(self.folder / "served"),
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, cwd=self.folder, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: the server and its workers
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path, made_store: Path) -> Iterator[Server]:
    store = tmp_path / "server.db"
    shutil.copyfile(made_store, store)
    held = Server(tmp_path, store)
    try:
        yield held
    finally:
        held.stop()


@pytest.mark.slow
@pytest.mark.fault("N1")
def test_a_server_that_goes_away_and_comes_back_gets_everything_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    server.start()
    root = tmp_path / "local"
    with Tracking.open(server.uri, "served", local_root=root) as tracking:
        parent = tracking.start_parent("served", {}, {"seed": 1})
        tracking.log_metrics(parent, [("loss", step, step, step) for step in range(10)])
        assert tracking.flush()
        server.stop()
        tracking.log_metrics(parent, [("loss", step, step, step) for step in range(10, 20)])
        started_at_s = time.monotonic()
        tracking.log_artifact(parent, model, "model")
        assert time.monotonic() - started_at_s < 1
        assert not tracking.flush(20)
        with pytest.raises(StageError, match="the champion of m"):
            tracking.champion("m")
        server.start()
        assert tracking.flush(60)
        assert tracking.register("m", parent, "model", {"digest": "1"}) == 1
        tracking.promote("m", 1)
        champion = tracking.champion("m")
        assert champion is not None
        assert champion[0] == 1
        server.stop()
        tracking.end(parent, "FINISHED")
        assert tracking.close(30) == 1
    server.start()
    with Tracking.open(server.uri, "served", local_root=root) as tracking:
        assert tracking.flush()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.uri)
    runs = runs_of(client, "served")
    assert runs["served"].info.status == "FINISHED"
    assert [metric.value for metric in client.get_metric_history(runs["served"].info.run_id, "loss")] == list(range(20))
    assert [entry.path for entry in client.list_artifacts(runs["served"].info.run_id, "model")] == ["model/config.json"]
    assert not (root / "mlflow.db").exists()
    assert sum("cannot be reached" in record.message for record in caplog.records) <= 2
