"""What MLflow is told of a run, by the driver alone: one parent run, a child a stage, metrics tailed from the ranks' records.

MLflow is opened when the first stage has something to do; a no-op opens none. Nothing here may fail a run: everything goes through the outbox of
`pipeline.tracking`, which delivers it when the server can be reached, and closes as KILLED what a dead driver left open. How far a training's records were
logged lies in `work/<stage>/<key>/tracked.json` beside them.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pipeline.config import reveal
from pipeline.curve import Curve
from pipeline.dag import Graph, Instance
from pipeline.manifest import Manifest
from pipeline.stage import Output, Summary
from pipeline.storage import Storage, without_userinfo
from pipeline.tracking import MetricRow, Run, Tracking

log = logging.getLogger(__name__)

POLL_EVERY_S = 5.0
LOGGED_TYPES = ("card", "exported_model", "report", "scores", "vocabulary")
REGISTERED_TYPE = "exported_model"

Status = Literal["FINISHED", "FAILED", "KILLED"]


def tracking_folder(storage: Storage) -> Path:
    """Where the default store, its artifacts and the outbox lie."""
    return Path(storage.root if storage.is_local else storage.cache) / "mlflow"


def tracking_uri(graph: Graph) -> str:
    """The store of a pipeline: as configured, else SQLite under the storage root (or, where that is remote, its cache on the driver)."""
    given = graph.settings.tracking.uri
    return reveal(given) if given is not None else f"sqlite:///{tracking_folder(graph.storage)}/mlflow.db"


def open_tracking(graph: Graph) -> Tracking:
    """Open the pipeline's store.

    Raises:
        PreflightError: the URI is of a kind that MLflow no longer writes to.
    """
    name = graph.settings.tracking.experiment or graph.settings.name
    return Tracking.open(tracking_uri(graph), name, local_root=tracking_folder(graph.storage))


def model_name(graph: Graph, task: str | None) -> str:
    """Name in the registry: the pipeline's for the encoder, with the task for a task model."""
    return graph.settings.name + (f"-{task}" if task else "")


class Observer:
    """One attempt's MLflow side."""

    def __init__(self, graph: Graph, storage: Storage, run: str, tags: Mapping[str, str]) -> None:
        self._graph, self._storage, self._run, self._tags = graph, storage, run, dict(tags)
        self._tracking: Tracking | None = None
        self._parent: Run | None = None
        self._polled_at_s = 0.0
        self._skipped: dict[str, str] = {}
        if not storage.is_local and graph.settings.tracking.uri is None:
            log.warning(
                "tracking.uri is not set and the storage is remote: MLflow's store is %s on this machine only", tracking_folder(storage)
            )

    def _open(self) -> tuple[Tracking, Run]:
        if self._tracking is None or self._parent is None:
            self._tracking = open_tracking(self._graph)
            tags = {"run": self._run, "storage": without_userinfo(self._storage.root), **self._tags}
            params = {"languages": ", ".join(self._graph.languages), "seed": self._graph.settings.seed}
            self._parent = self._tracking.start_parent(self._graph.settings.name, tags, params, name=self._run)
        return self._tracking, self._parent

    def skipped(self, instance: Instance, manifest: Manifest) -> None:
        """A stage had nothing to do, or its bytes were reused."""
        self._skipped[f"reused.{instance.name}"] = manifest.key

    def begin(self, instance: Instance, key: str) -> Run:
        """A stage starts: its child run."""
        tracking, parent = self._open()
        tags = {"stage": instance.declaration.name, "key": key}
        child = tracking.start_child(parent, instance.name, tags, instance.config.model_dump(mode="json"))
        # Records of an earlier attempt at the same artifact belong to this child as well: they are logged from the first.
        self._storage.write_json(f"work/{instance.declaration.name}/{key}/tracked.json", {"logged_chunks": 0})
        return child

    def poll(self, child: Run, spool: str, *, force: bool = False) -> None:
        """Log the records that have come in since the last time."""
        if self._tracking is None or (not force and time.monotonic() - self._polled_at_s < POLL_EVERY_S):
            return
        self._polled_at_s = time.monotonic()
        book = f"{spool.rpartition('/')[0]}/tracked.json"
        at = (self._storage.read_json(book) or {"logged_chunks": 0})["logged_chunks"]
        records, now = Curve(self._storage, spool).read(at)
        if now > at:
            ms = int(1000 * time.time())
            rows = [(name, float(value), int(record["step"]), ms) for record in records for name, value in record.items() if name != "step"]
            self._tracking.log_metrics(child, rows)
            self._storage.write_json(book, {"logged_chunks": now})

    def finished(self, child: Run, spool: str, instance: Instance, manifest: Manifest, summary: Summary, output: Output) -> None:
        """A stage ended well: its figures, manifest, evidence, data sets and models."""
        tracking, _ = self._open()
        self.poll(child, spool, force=True)
        tracking.log_metrics(child, _figures(manifest, summary))
        tracking.log_artifact(child, self._path(manifest.path))
        for name, entry in manifest.record["evidence"].items():
            tracking.log_artifact(child, self._named(entry["path"], name), "evidence")
        for slot, content in manifest.outputs.items():
            if content.shards:
                digest = content.identity()
                tracking.log_dataset(child, f"{instance.name}.{slot}", digest, self._storage.url(manifest.path), "output")
            if content.type in LOGGED_TYPES:
                for name, published in content.files.items():
                    tracking.log_artifact(child, self._path(published.path), f"{slot}/{name}".rpartition("/")[0])
            if content.type == REGISTERED_TYPE:
                self._register(tracking, child, slot, manifest)
        tracking.end(child, "FINISHED")

    def _path(self, path: str) -> Path:
        return self._storage.local(path)

    def _named(self, path: str, name: str) -> Path:
        """The file under its own name, which MLflow takes from the path."""
        local = self._storage.local(path)
        return local if local.name == Path(name).name else _linked(local, name, self._storage)

    def _register(self, tracking: Tracking, child: Run, slot: str, manifest: Manifest) -> None:
        """The model as `{name}` (encoder) or `{name}-{task}`; the same bytes are the same version."""
        task = self._storage.read_json(manifest.outputs[slot].files["lineage.json"].path)["task"]
        name = model_name(self._graph, task)
        version = tracking.register(name, child, f"{slot}/model", {"digest": manifest.digests()[slot], "artifact": manifest.path})
        if version is not None:
            log.info("MLflow: registered %s version %d", name, version)

    def failed(self, child: Run, spool: str, error: BaseException) -> None:
        """A stage failed or was interrupted."""
        tracking, _ = self._open()
        self.poll(child, spool, force=True)
        tracking.set_tags(child, {"error": f"{type(error).__name__}: {error}"[:500]})
        tracking.end(child, status_of(error))

    def close(self, error: BaseException | None) -> None:
        """The run ends."""
        if self._tracking is None or self._parent is None:
            return
        self._tracking.set_tags(self._parent, self._skipped)
        if error is not None:
            self._tracking.set_tags(self._parent, {"error": f"{type(error).__name__}: {error}"[:500]})
        self._tracking.end(self._parent, status_of(error))
        waiting = self._tracking.close()
        if waiting:
            log.warning("MLflow: %d records could not be delivered; the next run delivers them", waiting)


def status_of(error: BaseException | None) -> Status:
    """MLflow's word for how a run ended."""
    if error is None:
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt) or getattr(error, "exit_code", 0) in (130, 143) else "FAILED"


def _figures(manifest: Manifest, summary: Summary) -> list[MetricRow]:
    figures = {**summary.metrics, "seconds": float(manifest.record["seconds"]), "peak_gib": manifest.record["peak_bytes"] / 2**30}
    for name, ledger in manifest.ledgers.items():
        accounts = ledger["languages"].values()
        figures[f"ledger/{name}/in"] = float(sum(a["in"] for a in accounts))
        figures[f"ledger/{name}/kept"] = float(sum(a["kept"] for a in accounts))
    now = int(1000 * time.time())
    return [(name, float(value), 0, now) for name, value in figures.items()]


def _linked(local: Path, name: str, storage: Storage) -> Path:
    folder = storage.temporary().with_suffix(".named")
    folder.mkdir(parents=True)
    target = folder / Path(name).name
    shutil.copyfile(local, target)
    return target
