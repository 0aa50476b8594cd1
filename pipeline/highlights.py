"""The plain-text summary that `run` prints at its end, read from the manifests of the pipeline's last completed stages.

    state -> manifest of each instance -> one line a finding: corpus, held-out loss beside its baselines, scores beside theirs, report, MLflow

What a pipeline does not have is left out. No heavy library is loaded.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline import manifest as manifests
from pipeline.config import PipelineConfig
from pipeline.dag import Graph
from pipeline.manifest import Manifest, State
from pipeline.storage import Storage, without_userinfo

SYSTEMS = (("model", "model"), ("untrained", "never pretrained"), ("majority", "majority class"))


def lines(graph: Graph) -> list[str]:
    """The summary, one finding a line.

    Raises:
        IntegrityError: a manifest is damaged.
    """
    state = State.load(graph.storage, graph.settings.name)
    found: list[tuple[str, Manifest]] = []
    for instance in graph.instances:
        entry = state.instances.get(instance.name)
        manifest = None if entry is None else manifests.load(graph.storage, entry["manifest"])
        if manifest is not None:
            found.append((instance.name, manifest))
    told: list[str] = []
    for name, manifest in found:
        tell = _TELLERS.get(manifest.stage)
        if tell is not None:
            told.extend(tell(name, manifest, graph.storage, state))
    if found:
        command = mlflow_command(graph.settings, graph.storage)
        told.extend([f"MLflow: {command}"] if command else [])
    return told


def mlflow_command(settings: PipelineConfig, storage: Storage) -> str | None:
    """The command (or the address of a server) that shows the runs in MLflow; None where there is no store. Secrets stay `${env:NAME}`."""
    uri = settings.tracking.uri
    if uri is None:
        if not storage.is_local:
            return None
        uri = f"sqlite:///{storage.root}/mlflow/mlflow.db"
    uri = without_userinfo(uri)
    return f"open {uri}" if uri.startswith(("http://", "https://")) else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


def _corpus(name: str, manifest: Manifest, storage: Storage, state: State) -> Iterator[str]:
    told = manifest.counts["documents"]
    reasons = "; ".join(
        f"{what}: " + ", ".join(f"{reason} {count:,}" for reason, count in told[what].items())
        for what in ("dropped", "quarantined")
        if told[what]
    )
    yield (
        f"corpus: {told['languages']} languages, {told['in']:,} documents, {told['kept']:,} kept in {told['kept_languages']} languages"
        + (f" ({reasons})" if reasons else "")
    )


def _pretraining(name: str, manifest: Manifest, storage: Storage, state: State) -> Iterator[str]:
    summary: Mapping[str, float] = manifest.counts.get("heldout", {}).get("summary", {})
    if "loss" not in summary:
        return
    loss = summary["loss"]
    beside = [
        f"{label} {summary[key]:.3f} ({abs(summary[key] - loss):.3f} nats {'better' if loss < summary[key] else 'worse'})"
        for key, label in (("corpus_unigram", "corpus-wide unigram"), ("language_unigram", "per-language unigram"))
        if key in summary
    ]
    languages = len(manifest.counts["heldout"]["loss"])
    yield f"{name}: held-out masked loss {loss:.3f} nats, mean of {languages} languages; beside it " + ", ".join(beside or ["no baseline"])


def _scores(name: str, manifest: Manifest, storage: Storage, state: State) -> Iterator[str]:
    plain: dict[str, Any] | None = storage.read_json(manifest.outputs["scores"].files["scores.json"].path)
    if plain is None:
        return
    systems = plain["systems"]
    group = "zero_shot" if "zero_shot" in systems["model"]["groups"] else "all"
    parts = []
    for key, label in SYSTEMS:
        if key in systems:
            value, low, high = (figure / 100 for figure in systems[key]["groups"][group]["accuracy"])
            parts.append(f"{label} {value:.1f}% [{low:.1f}, {high:.1f}]")
    languages = systems["model"]["groups"][group]["languages"]
    kind = "zero-shot accuracy" if group == "zero_shot" else "accuracy"
    yield f"{name}: {kind} on {plain['set']} over {languages} languages, 95% interval: " + ", ".join(parts)
    yield f"{name}: {plain['verdict']}" + (" Text seen unlabelled." if plain["text_seen_unlabelled"] else "")


def _report(name: str, manifest: Manifest, storage: Storage, state: State) -> Iterator[str]:
    now = {digest for entry in state.instances.values() for digest in entry.get("digests", {}).values()}
    stale = [given for given in manifest.counts.get("inputs", {}).values() if given not in now]
    page = storage.url(manifest.outputs["report"].files["report.html"].path)
    yield f"report: {page}" + (" (of an earlier run: what it shows was since made anew)" if stale else "")


_TELLERS = {"card": _corpus, "pretrain": _pretraining, "evaluate": _scores, "report": _report}
