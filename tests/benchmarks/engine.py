"""Our side of the benchmarks: the command line on a pipeline file, as a user would run it, and what came out.

Gopher's rules    ingest (JSON lines) -> clean (measures) -> dedup (rules) -> kept (JSON lines, zstd)
near-duplicates   ingest (JSON lines) -> dedup (signatures, clusters)             nothing is measured by which nothing is judged
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.measured import Cost, run

ROOT = Path(__file__).resolve().parent.parent.parent
OFF = ("heldout", "examples", "vocabulary", "encode", "pack", "pretrain", "export", "finetune", "evaluate", "report")
LOOSE = {"min_words_for_ngrams": 0, "min_letters_share": 0, "max_symbol_word_ratio": 1_000_000}
"""Bounds of the rule `repetition` that Gopher's table does not have, opened."""
GOPHER = {
    "rules": ["repetition", "gopher"],
    "repetition": LOOSE,
    "gopher": {"min_stop_words": 0},
    "near": None,
    "lines": None,
    "urls": False,
}
"""dedup with Gopher's rules alone."""
NEAR: dict[str, Any] = {"rules": [], "lines": None, "urls": False}
"""dedup with near-duplicates alone."""
PLAIN = {"rules": ["normalise"], "identify": False, "stop_words": {}}
"""clean without what the peer does not do."""


def settings(
    pattern: str,
    languages: Sequence[str],
    storage: Path,
    dedup: Mapping[str, Any],
    *,
    clean: Mapping[str, Any] | None,
    own: bool,
    kept: bool,
    card: bool,
    workers: int,
) -> dict[str, Any]:
    """A pipeline over JSON lines. Without `own` no document has a language, so that words are what stands between white space in all of them.

    Without `clean` documents are compared as they were read.
    """
    source = {"kind": "jsonl", "path": pattern, "url_field": "id"} | ({"lang_field": "lang"} if own else {})
    stages: dict[str, Any] = {"ingest": {"sources": [source]}, "clean": clean, "dedup": dict(dedup), **dict.fromkeys(OFF)}
    if clean is None:
        stages["dedup"]["inputs"] = {"documents": "ingest"}
    if not card:
        stages["card"] = None
    if kept:
        stages["kept"] = {}
    return {"name": "benchmark", "languages": list(languages), "storage": str(storage), "stages": stages, "cluster": {"workers": workers}}


def pipeline(folder: Path, plain: Mapping[str, Any], env: Mapping[str, str] | None = None, *arguments: str) -> Cost:
    """Write the file into `folder` and run it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pipeline.yaml"
    file.write_text(json.dumps(plain, indent=1), encoding="utf-8")
    around = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **(env or {})}
    return run([sys.executable, "-m", "pipeline", "run", str(file), *arguments], env=around, folder=folder, log=folder / "run.log")


def fresh(storage: Path) -> Path:
    """An empty storage root."""
    shutil.rmtree(storage, ignore_errors=True)
    return storage


def _instances(storage: Path) -> dict[str, Any]:
    """What is known of the stages of the one pipeline in a storage root."""
    found: dict[str, Any] = json.loads((storage / "pipelines" / "benchmark" / "state.json").read_text())["instances"]
    return found


def manifest(storage: Path, stage: str) -> dict[str, Any]:
    """The manifest of a stage."""
    found: dict[str, Any] = json.loads((storage / _instances(storage)[stage]["manifest"]).read_text())
    return found


def shards(storage: Path, stage: str, slot: str) -> list[Path]:
    """Paths of the shards of an output."""
    return [storage / shard["path"] for shard in manifest(storage, stage)["content"]["outputs"][slot]["shards"]]


def texts(storage: Path) -> list[Path]:
    """Paths of the shards that dedup compared."""
    return shards(storage, "clean" if "clean" in _instances(storage) else "ingest", "documents")


def decisions(storage: Path) -> dict[str, tuple[str, str, str]]:
    """For each document, by the id of its record: reason ("" if it is kept), its id in the engine, its cluster."""
    from pipeline.tables import read_table

    found: dict[str, tuple[str, str, str]] = {}
    for text, made in zip(texts(storage), shards(storage, "dedup", "decisions"), strict=True):
        rows = read_table(made, ("reason", "id", "cluster"))
        columns = [rows["reason"].to_pylist(), rows["id"].to_pylist(), rows["cluster"].to_pylist()]
        for name, reason, own, cluster in zip(read_table(text, ("url",))["url"].to_pylist(), *columns, strict=True):
            found[name] = (reason, own.hex(), cluster.hex())
    return found
