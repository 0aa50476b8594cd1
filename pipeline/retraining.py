"""Scheduled retraining, first form: run if a source changed, compare with the champion, promote only what is better.

    no source changed                  -> says so, exit 0
    run -> challenger's held-out loss  -> on the same frozen held-out text and better by `retrain.min_gain` -> alias `champion` moves, exit 0
                                       -> else exit 7; the champion stays

What was compared is kept in `pipelines/<name>/champion.json`: loss, vocabulary and digest of the held-out text. Losses are in nats per UTF-8 byte of held-out text
where vocabularies differ, since a token of another vocabulary is another unit.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline import manifest as manifests
from pipeline.dag import Graph, plan
from pipeline.errors import ConfigError, GateRefusedError, StageError
from pipeline.manifest import Manifest, State
from pipeline.observer import model_name, open_tracking
from pipeline.runner import Choice, run
from pipeline.storage import Storage
from pipeline.tracking import Tracking

TYPES = {"checkpoint": "checkpoint", "heldout": "heldout", "model": "exported_model"}


def retrain(graph: Graph, *, wait_s: float = 0.0) -> Iterator[str]:
    """Do it; yields lines for the user.

    Raises:
        GateRefusedError: the new model is not better.
        PipelineError: as a run.
    """
    storage = graph.storage
    planned = plan(graph)
    before = _champion(storage, graph.settings.name)
    if before is not None and all(item.state == "done" for item in planned):
        yield f"{graph.settings.name}: no source changed since the champion was trained; nothing to do."
        return
    result = run(graph, Choice(wait_s=wait_s), tags={"retrain": "true"})
    yield f"ran {sum(s.state == 'ran' for s in result.stages)} of {len(result.stages)} stages in {result.seconds:.0f} s"
    challenger = measured(graph)
    if before is None:
        _promote(graph, challenger)
        yield f"first champion: {_words(challenger)}"
        return
    if challenger["heldout"] != before["heldout"]:
        raise StageError(
            "the held-out text is not the champion's: they cannot be compared. It is frozen by pipeline name; was it forced or removed?"
        )
    if challenger["digest"] == before["digest"]:
        yield "the same model came out, byte for byte; the champion stays."
        return
    old, new = before["bits_per_byte"], challenger["bits_per_byte"]
    gain = (old - new) * 0.6931471805599453
    if gain <= graph.settings.retrain.min_gain:
        _refuse(graph)
        raise GateRefusedError(
            f"the champion stays: held-out loss {new:.4f} bits per byte against its {old:.4f}. The challenger is in MLflow; promote it by hand if you know better."
        )
    _promote(graph, challenger)
    yield f"new champion: {_words(challenger)}, before {old:.4f}"


def measured(graph: Graph) -> dict[str, Any]:
    """The held-out figures of the last run, with what identifies text and model.

    Raises:
        ConfigError: the pipeline has no pretraining, held-out text or export.
    """
    found = {name: _last(graph, kind) for name, kind in TYPES.items()}
    for name, manifest in found.items():
        if manifest is None:
            raise ConfigError(f"retrain needs a pipeline with heldout, pretrain and export; it has no {name}")
    checkpoint, heldout, model = found["checkpoint"], found["heldout"], found["model"]
    assert checkpoint is not None and heldout is not None and model is not None
    held = checkpoint.counts["heldout"]
    return {
        "bits_per_byte": held["summary"]["bits_per_byte"],
        "loss": held["summary"]["loss"],
        "heldout": heldout.digests()["heldout"],
        "digest": model.digests()["model"],
        "artifact": model.path,
    }


def _last(graph: Graph, kind: str) -> Manifest | None:
    """The manifest of the first instance that gives a type, as of its last run."""
    state = State.load(graph.storage, graph.settings.name)
    for instance in graph.instances:
        if any(output.name == kind for output in instance.declaration.output.values()) and instance.name in state.instances:
            return manifests.load(graph.storage, state.instances[instance.name]["manifest"])
    return None


def _champion(storage: Storage, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = storage.read_json(f"pipelines/{name}/champion.json")
    return found


def _promote(graph: Graph, challenger: dict[str, Any]) -> None:
    """Move the aliases, then the record; a kill in between is mended by the next retrain, which finds the alias moved already."""
    with open_tracking(graph) as tracking:
        for name, version in _versions(graph, tracking):
            tracking.promote(name, version)
    graph.storage.write_json(f"pipelines/{graph.settings.name}/champion.json", challenger)


def _refuse(graph: Graph) -> None:
    with open_tracking(graph) as tracking:
        for name, version in _versions(graph, tracking):
            tracking.reject(name, version)


def _versions(graph: Graph, tracking: Tracking) -> Iterator[tuple[str, int]]:
    """Registry name and version of each model of the last run: the encoder, and the task models trained on it."""
    state = State.load(graph.storage, graph.settings.name)
    for instance in graph.instances:
        for slot, kind in instance.declaration.output.items():
            if kind.name != "exported_model" or instance.name not in state.instances:
                continue
            manifest = manifests.load(graph.storage, state.instances[instance.name]["manifest"])
            if manifest is None:
                continue
            task = graph.storage.read_json(manifest.outputs[slot].files["lineage.json"].path)["task"]
            name = model_name(graph, task)
            version = tracking.version_of(name, {"digest": manifest.digests()[slot]})
            if version is None:
                raise StageError(
                    f"the model {manifest.digests()[slot][:12]} is not registered in MLflow as {name}; was MLflow down? Run again."
                )
            yield name, version


def _words(figures: dict[str, Any]) -> str:
    return f"held-out {figures['bits_per_byte']:.4f} bits per byte ({figures['loss']:.4f} nats per masked token)"


def cron_line(graph: Graph, overrides: Sequence[str]) -> str:
    """A crontab line that retrains through `ray job submit`; `RAY_ADDRESS` names the cluster's job server.

    Raises:
        ConfigError: `retrain.cron` is not five fields.
    """
    fields = graph.settings.retrain.cron.split()
    if len(fields) != 5:
        raise ConfigError(f"retrain.cron is {graph.settings.retrain.cron!r}; a crontab line has five fields, as in '0 3 * * 0'")
    folder = str(Path(graph.path).absolute().parent)
    command = shlex.join(["python", "-m", "pipeline", "retrain", str(Path(graph.path).name), *overrides])
    # cron treats % as a line end unless it is escaped.
    job = f"cd {shlex.quote(folder)} && ray job submit --working-dir . -- {command}".replace("%", r"\%")
    return f"{' '.join(fields)} {job}"
