"""The only door to MLflow: runs, figures, artifacts and the model registry.

    start_parent → start_child → log_metrics / log_params / log_artifact / log_dataset → end
         └── each call only writes a record to the outbox (see `pipeline.outbox`) and returns; a thread imports MLflow, makes
             the store if it is new, and delivers. A server that is down, slow or broken costs a warning, never a run.

    register → champion → promote       decisions about models: made at once, and a failure is a StageError

Run ids are MLflow's, but a `Run` has a key of ours before its run exists there; the key is a tag of the run, so that a delivery
that is repeated after a kill finds the run it made. Strings lose the user and password of any URL in them.

The default store is an SQLite file, made once: in a temporary file, under a lock, then renamed, since the first use by several
processes at once, or one that is killed half-way, would leave it broken for good. Only the driver writes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import PreflightError, StageError
from pipeline.figures import as_tags, flatten, quoted, safe_name, scrubbed
from pipeline.outbox import Courier, Session, UnreachableError, exclusive
from pipeline.storage import without_userinfo

logger = logging.getLogger(__name__)

PIPELINE_TAG = "xlm.pipeline"
KEY_TAG = "xlm.key"
STATUS_TAG = "validation_status"
CHAMPION, CHALLENGER = "champion", "challenger"

_METRICS_A_BATCH = 1000
_PARAMS_A_BATCH = 50  # MLflow takes 100, but no request above 1 MB
_MAX_DATASET_DIGEST_LENGTH = 36
_WAIT_S = 60.0
_CLOSE_S = 60.0
_FINAL_ERRORS = frozenset({
    "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS",
    "BAD_REQUEST", "INVALID_STATE", "NOT_IMPLEMENTED",
})  # fmt: skip
"""What MLflow answers to a request that would never be granted; all else may pass."""

MetricRow = tuple[str, float, int, int]
"""Name, value, step, time in milliseconds since 1970."""


@dataclass(frozen=True)
class Run:
    """A run we started, whether or not MLflow knows of it yet."""

    key: str
    name: str
    pipeline: str


@dataclass(frozen=True)
class OpenRun:
    """A run that MLflow has as running."""

    run_id: str
    name: str
    tags: Mapping[str, str]


class Tracking:
    """One process's link to an MLflow server or file."""

    def __init__(self, uri: str, experiment: str, artifacts: str | None, outbox: Path) -> None:
        self.uri = uri
        self.shown_uri = without_userinfo(uri)
        self._experiment = experiment
        self._artifacts = artifacts
        self._lock = threading.Lock()
        self._made: tuple[Any, str] | None = None
        self._courier = Courier(outbox, self._deliver, self._finish_left, f"MLflow ({self.shown_uri})")

    @classmethod
    def open(cls, uri: str | None, experiment: str, *, local_root: Path) -> Tracking:
        """Begin; MLflow itself is imported and asked on a thread.

        `uri` is `sqlite:////absolute/path.db`, another database, or `http(s)://`; none is `mlflow.db` under `local_root`. There
        too lie the outbox and, without a server, the artifacts.

        Raises:
            PreflightError: a URI that MLflow no longer writes to, or `local_root` cannot be written.
        """
        root = local_root.absolute()
        chosen = uri or f"sqlite:///{root / 'mlflow.db'}"
        scheme = chosen.partition(":")[0]
        if "://" not in chosen or scheme == "file" or (scheme == "sqlite" and not chosen.startswith("sqlite:////")):
            raise PreflightError(
                f"tracking.uri is {without_userinfo(chosen)!r}: allowed are sqlite:////absolute/path.db, another database, or http(s)://server"
            )
        _quiet()
        artifacts = None if scheme in ("http", "https") else (root / "mlartifacts").as_uri()
        try:
            return cls(chosen, experiment, artifacts, root / "outbox")
        except OSError as error:
            raise PreflightError(f"{root} cannot hold the figures on their way to MLflow: {error}. Make it writable.") from error

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, timeout_s: float = _CLOSE_S) -> int:
        """Deliver the rest; return the number of records that must wait for the next run."""
        return self._courier.close(timeout_s)

    def flush(self, timeout_s: float = _WAIT_S) -> bool:
        """Wait until all figures have arrived; false if they cannot now."""
        return self._courier.drain(timeout_s)

    # Runs -------------------------------------------------------------------------------------------------------

    def start_parent(self, pipeline: str, tags: Mapping[str, object], params: Mapping[str, object], *, name: str | None = None) -> Run:
        """Start the run of a whole pipeline."""
        return self._start(Run(uuid.uuid4().hex, name or pipeline, pipeline), None, tags, params)

    def start_child(self, parent: Run, name: str, tags: Mapping[str, object], params: Mapping[str, object]) -> Run:
        """Start the run of one stage below that of its pipeline."""
        return self._start(Run(uuid.uuid4().hex, name, parent.pipeline), parent, tags, params)

    def _start(self, run: Run, parent: Run | None, tags: Mapping[str, object], params: Mapping[str, object]) -> Run:
        kept = {PIPELINE_TAG: run.pipeline, KEY_TAG: run.key, "mlflow.source.name": "xlm-pipeline", **as_tags(tags)}
        above = None if parent is None else parent.key
        self._send({"do": "start", "run": run.key, "parent": above, "name": run.name, "tags": kept, "at_ms": _now_ms()})
        self.log_params(run, params)
        return run

    def end(self, run: Run, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Say how a run ended."""
        self._send({"do": "end", "run": run.key, "status": status, "at_ms": _now_ms()})

    def set_tags(self, run: Run, tags: Mapping[str, object]) -> None:
        """Set tags, over those of the same names."""
        if tags:
            self._send({"do": "tags", "run": run.key, "tags": as_tags(tags)})

    def log_metrics(self, run: Run, rows: Iterable[MetricRow]) -> None:
        """Log figures; characters that MLflow refuses in a name are replaced (`recall@1` becomes `recall_at_1`)."""
        rows = [(safe_name(name), float(value), int(step), int(at_ms)) for name, value, step, at_ms in rows]
        for start in range(0, len(rows), _METRICS_A_BATCH):
            self._send({"do": "metrics", "run": run.key, "rows": rows[start : start + _METRICS_A_BATCH]})

    def log_params(self, run: Run, params: Mapping[str, object]) -> None:
        """Log settings; nested mappings become dotted names, long values are cut. A param cannot be changed later."""
        flat = list(flatten(params).items())
        for start in range(0, len(flat), _PARAMS_A_BATCH):
            self._send({"do": "params", "run": run.key, "params": flat[start : start + _PARAMS_A_BATCH]})

    def log_artifact(self, run: Run, path: Path, folder: str | None = None) -> None:
        """Log a file, or the content of a folder, under `folder` of the run's artifacts.

        Up to 16 MiB it is copied at once; what is larger must stay in place until `flush` says true or the run is closed.
        """
        self._courier.send({"do": "artifact", "run": run.key, "folder": folder}, path)

    def log_text(self, run: Run, text: str, path: str) -> None:
        """Log a text as the artifact `path` ("folder/name")."""
        folder, _, name = path.rpartition("/")
        self._courier.send({"do": "artifact", "run": run.key, "folder": folder or None}, text=(name, text))

    def log_dataset(self, run: Run, name: str, digest: str, source: str, context: str) -> None:
        """Log an input by digest (its first 36 characters, all that MLflow keeps) and place."""
        record = {"name": name[:500], "digest": digest[:_MAX_DATASET_DIGEST_LENGTH], "source": source, "context": context}
        self._send({"do": "dataset", "run": run.key, **record})

    def run_id(self, run: Run) -> str | None:
        """MLflow's id of a run; none while it cannot be reached."""
        self.flush()
        known = self._courier.session.state.get(run.key)
        return None if known is None else str(known["id"])

    def find_open_runs(self, pipeline: str) -> list[OpenRun]:
        """Find this pipeline's runs that MLflow has as running, ours not among them; none while it cannot be reached."""
        self.flush()
        ours = {known["id"] for known in list(self._courier.session.state.values())}
        try:
            with _reaching():
                client, experiment_id = self._client()
                query = f"tags.`{PIPELINE_TAG}` = '{quoted(pipeline)}' and attributes.status = 'RUNNING'"
                found = client.search_runs([experiment_id], query, max_results=1000)
        except Exception as error:  # noqa: BLE001 - figures are not worth a run
            logger.warning("MLflow (%s): open runs could not be looked for: %s", self.shown_uri, error)
            return []
        return [OpenRun(run.info.run_id, run.info.run_name or "", dict(run.data.tags)) for run in found if run.info.run_id not in ours]

    def close_dead(self, run_ids: Collection[str]) -> None:
        """Close runs of drivers that are known to be dead, as KILLED."""
        for run_id in sorted(run_ids):
            self._send({"do": "kill", "id": run_id, "at_ms": _now_ms()})

    # Models -----------------------------------------------------------------------------------------------------

    def register(self, name: str, run: Run, artifact_folder: str, tags: Mapping[str, object]) -> int | None:
        """Make `artifact_folder` of a run's artifacts a version of the model `name`; returns its number.

        A version that carries the same tags is taken instead of a new one, so a rerun changes nothing: let the model's digest be
        among them. None says that MLflow cannot be reached; it is then registered when it can.
        """
        record = {"do": "register", "run": run.key, "name": name, "folder": artifact_folder, "tags": as_tags(tags)}
        if self.flush():
            try:
                return self._register(self._courier.session, record)
            except UnreachableError as error:
                logger.warning("MLflow (%s): %s is registered later: %s", self.shown_uri, name, error)
            except Exception as error:  # noqa: BLE001 - figures are not worth a run
                logger.warning("MLflow (%s): %s was not registered: %s", self.shown_uri, name, without_userinfo(str(error)))
                return None
        self._send(record)
        return None

    def version_of(self, name: str, tags: Mapping[str, object]) -> int | None:
        """The version of a model that carries these tags; none if there is none.

        Raises:
            StageError: MLflow cannot say.
        """
        wanted = as_tags(tags)
        with self._deciding(f"looking for {name}") as client:
            for version in client.search_model_versions(f"name = '{quoted(name)}'", max_results=1000):
                if all(version.tags.get(tag) == value for tag, value in wanted.items()):
                    return int(version.version)
        return None

    def champion(self, name: str) -> tuple[int, dict[str, str]] | None:
        """The version in use of a model, with its tags; none if there is none.

        Raises:
            StageError: MLflow cannot say.
        """
        with self._deciding(f"the champion of {name}") as client:
            return _aliased(client, name, CHAMPION)

    def challenge(self, name: str, version: int) -> None:
        """Mark a version as the one to be compared with the champion.

        Raises:
            StageError: MLflow cannot be reached or has no such version.
        """
        with self._deciding(f"the challenger {name} {version}") as client:
            client.set_model_version_tag(name, str(version), STATUS_TAG, "pending")
            client.set_registered_model_alias(name, CHALLENGER, str(version))

    def promote(self, name: str, version: int) -> None:
        """Make a version the champion; there is one at every moment, and the same call again changes nothing.

        Raises:
            StageError: MLflow cannot be reached or has no such version; the champion is then whichever it was.
        """
        with self._deciding(f"promoting {name} {version}") as client:
            before = _aliased(client, name, CHAMPION)
            client.set_model_version_tag(name, str(version), STATUS_TAG, "approved")
            client.set_registered_model_alias(name, CHAMPION, str(version))  # one write: the old one goes with it
            if before is not None and before[0] != version:
                client.set_model_version_tag(name, str(before[0]), STATUS_TAG, "replaced")
            _drop_challenger(client, name, version)

    def reject(self, name: str, version: int) -> None:
        """Note that a version was not good enough; it stays registered.

        Raises:
            StageError: MLflow cannot be reached or has no such version.
        """
        with self._deciding(f"rejecting {name} {version}") as client:
            client.set_model_version_tag(name, str(version), STATUS_TAG, "rejected")
            _drop_challenger(client, name, version)

    @contextlib.contextmanager
    def _deciding(self, what: str) -> Iterator[Any]:
        self.flush()
        try:
            with _reaching():
                yield self._client()[0]
        except Exception as error:
            text = without_userinfo(" ".join(str(error).split()))
            raise StageError(f"{what}: MLflow at {self.shown_uri} did not do it: {text}. Nothing else was changed; try again.") from error

    # Delivery, on the courier's thread --------------------------------------------------------------------------

    def _send(self, record: Mapping[str, Any]) -> None:
        self._courier.send(scrubbed(record))

    def _client(self) -> tuple[Any, str]:
        """MLflow's client and the experiment's id, made when first needed.

        Raises:
            UnreachableError: not to be had now.
        """
        with self._lock:
            if self._made is None:
                if self.uri.startswith("sqlite:"):
                    make_sqlite_store(Path(self.uri.removeprefix("sqlite:///")), self._artifacts or "")
                with _reaching():
                    from mlflow.tracking import MlflowClient

                    _quiet()
                    client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
                    self._made = (client, _experiment_id(client, self._experiment, self._artifacts))
            return self._made

    def _deliver(self, session: Session, record: dict[str, Any]) -> None:
        with _reaching():
            client, _ = self._client()
            if record["do"] == "start":
                self._deliver_start(session, record)
            elif record["do"] == "kill":
                client.set_terminated(record["id"], "KILLED", end_time=record["at_ms"])
            elif record["do"] == "register":
                self._register(session, record)
            else:
                known = session.state.get(record["run"])
                if known is None:
                    raise StageError(f"the run of a {record['do']} record was never started")
                _log(client, known["id"], record)
                if record["do"] == "end":
                    session.remember(record["run"], {**known, "is_over": True})

    def _deliver_start(self, session: Session, record: Mapping[str, Any]) -> None:
        client, experiment_id = self._client()
        if record["run"] in session.state:
            return
        found = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{record['run']}'", max_results=1)
        tags = dict(record["tags"])
        above = session.state.get(record["parent"])
        if above is not None:
            tags["mlflow.parentRunId"] = above["id"]
        run = found[0] if found else client.create_run(experiment_id, start_time=record["at_ms"], tags=tags, run_name=record["name"])
        session.remember(record["run"], {"id": run.info.run_id, "is_over": False})

    def _finish_left(self, session: Session) -> None:
        """The process of this session is dead: what it left running is closed."""
        with _reaching():
            client, _ = self._client()
            for key, known in session.state.items():
                if not known["is_over"]:
                    client.set_terminated(known["id"], "KILLED")
                    session.remember(key, {**known, "is_over": True})

    def _register(self, session: Session, record: Mapping[str, Any]) -> int:
        from mlflow.exceptions import MlflowException

        with _reaching():
            client, _ = self._client()
            known = session.state.get(record["run"])
            if known is None:
                raise StageError(f"{record['name']}: its run was never started")
            name, tags = record["name"], record["tags"]
            with contextlib.suppress(MlflowException):  # it is there already; if not, the next line says so
                client.create_registered_model(name)
            for version in client.search_model_versions(f"name = '{quoted(name)}'", max_results=1000):
                if tags and all(version.tags.get(tag) == value for tag, value in tags.items()):
                    return int(version.version)
            source = f"{client.get_run(known['id']).info.artifact_uri}/{record['folder']}"
            made = client.create_model_version(name, source, known["id"], tags={**tags, STATUS_TAG: "pending"}, await_creation_for=0)
            return int(made.version)


# MLflow's side --------------------------------------------------------------------------------------------------


def _log(client: Any, run_id: str, record: Mapping[str, Any]) -> None:
    from mlflow import entities

    if record["do"] == "metrics":
        client.log_batch(run_id, metrics=[entities.Metric(name, value, at_ms, step) for name, value, step, at_ms in record["rows"]])
    elif record["do"] == "params":
        client.log_batch(run_id, params=[entities.Param(name, value) for name, value in record["params"]])
    elif record["do"] == "tags":
        client.log_batch(run_id, tags=[entities.RunTag(name, value) for name, value in record["tags"].items()])
    elif record["do"] == "artifact":
        path = Path(record["path"])
        if not path.exists():
            raise FileNotFoundError(f"{path} is gone before it could be logged")
        (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), record["folder"])
    elif record["do"] == "dataset":
        source = json.dumps({"uri": record["source"]})
        dataset = entities.Dataset(record["name"], record["digest"], source_type="uri", source=source)
        context = entities.InputTag("mlflow.data.context", record["context"])
        client.log_inputs(run_id, [entities.DatasetInput(dataset, [context])])
    elif record["do"] == "end":
        client.set_terminated(run_id, record["status"], end_time=record["at_ms"])
    else:
        raise ValueError(f"no such record: {record['do']!r}")


def _experiment_id(client: Any, name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:  # another process was first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _aliased(client: Any, name: str, alias: str) -> tuple[int, dict[str, str]] | None:
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return int(version.version), dict(version.tags)


def _drop_challenger(client: Any, name: str, version: int) -> None:
    challenger = _aliased(client, name, CHALLENGER)
    if challenger is not None and challenger[0] == version:
        client.delete_registered_model_alias(name, CHALLENGER)


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    """Tell failures that may pass from answers that will not change."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreachableError(without_userinfo(str(error))) from error
    except Exception as error:
        code = getattr(error, "error_code", None)
        is_database = type(error).__module__.startswith("sqlalchemy")
        if is_database or (code is not None and code not in _FINAL_ERRORS):
            raise UnreachableError(without_userinfo(" ".join(str(error).split())[:300])) from error
        raise


def make_sqlite_store(path: Path, artifacts: str) -> None:
    """Make an MLflow database at `path` unless there is one: elsewhere, under a lock, then renamed.

    Takes about 8 s the first time, most of it MLflow's own migrations; processes that come meanwhile wait.

    Raises:
        UnreachableError: the folder cannot be written.
    """
    if path.exists():
        return
    with _reaching(), exclusive(path.with_name(path.name + ".lock")):
        for stale in path.parent.glob(path.name + ".new-*"):  # its maker was killed: the lock is ours
            stale.unlink()
        if path.exists():
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        _quiet()
        temporary = path.with_name(f"{path.name}.new-{uuid.uuid4().hex}")
        store = SqlAlchemyStore(f"sqlite:///{temporary}", artifacts)
        store._dispose_engine()
        temporary.replace(path)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _quiet() -> None:
    """No telemetry, no banners, no minutes of retries; what the user has set stays."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_CONFIGURE_LOGGING": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
