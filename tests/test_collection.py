"""Garbage collection on a storage filled by hand: what a pipeline's state refers to stays, byte for byte."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import collection, lease
from pipeline import manifest as manifests
from pipeline.errors import IntegrityError, LockedError
from pipeline.manifest import Manifest, Shard, SlotContent, State
from pipeline.storage import Storage, digest

OLD_S = collection.KEEP_UNITS_S + 3600


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.at(str(tmp_path / "store"))


def _unit(storage: Storage, stage: str, phase: str, name: str) -> Shard:
    """A finished unit: its file and its record."""
    key = digest([stage, phase, name])
    stem = f"units/{stage}/{phase}/{key[:2]}/{key}"
    published = storage.write(f"{stem}.rows.arrow", name.encode())
    storage.write_json(f"{stem}.json", {"key": key, "stage": stage, "phase": phase, "files": {}})
    return Shard(key, published.path, published.sha256, published.bytes, 1)


def _artifact(storage: Storage, stage: str, name: str, shards: tuple[Shard, ...], **record: Any) -> Manifest:
    key = digest([stage, name])
    folder = f"artifacts/{stage}/{key}"
    files = {"card.json": storage.write_json(f"{folder}/out/card.json", {"name": name})}
    storage.write(f"{folder}/evidence/plot.svg", b"<svg/>")
    made = Manifest(f"{folder}/manifest.json", stage, key, {"out": SlotContent("documents", shards, files)}, {}, {}, record)
    storage.write_json(made.path, made.plain())
    return made


def _refer(storage: Storage, pipeline: str, *made: Manifest) -> None:
    entries = {m.stage: {"manifest": m.path, "key": m.key, "digests": m.digests(), "recipe": {}, "recipe_key": "0" * 64} for m in made}
    State(f"pipelines/{pipeline}/state.json", entries).save(storage)


def _age(storage: Storage, *tops: str) -> None:
    """Make everything below some folders old."""
    then = time.time() - OLD_S
    for top in tops:
        for path in storage.list(top):
            os.utime(Path(storage.root) / path, (then, then))


def _all(storage: Storage) -> dict[str, bytes]:
    return {path: storage.read(path) for path in storage.list("")}


def test_what_a_state_refers_to_stays_and_the_rest_goes(storage: Storage) -> None:
    kept, dropped = _unit(storage, "clean", "map", "now"), _unit(storage, "clean", "map", "before")
    now, before = _artifact(storage, "clean", "now", (kept,)), _artifact(storage, "clean", "before", (dropped,))
    _refer(storage, "mine", now)
    _age(storage, "units", "artifacts")
    everything = _all(storage)
    stem = dropped.path.removesuffix(".rows.arrow")
    folder = before.path.removesuffix("/manifest.json")
    gone = {f"{folder}/manifest.json", f"{folder}/out/card.json", f"{folder}/evidence/plot.svg", f"{stem}.rows.arrow", f"{stem}.json"}

    looked = collection.collect(storage, delete=False)
    assert set(looked.paths) == gone
    assert looked.paths == sorted(looked.paths)
    assert looked.bytes == sum(len(everything[path]) for path in gone)
    assert _all(storage) == everything

    assert collection.collect(storage, delete=True) == looked
    left = {path: content for path, content in _all(storage).items() if not path.endswith(".guard")}
    assert left == {path: content for path, content in everything.items() if path not in gone}
    assert not (Path(storage.root) / folder).exists()
    assert collection.collect(storage, delete=True).paths == []
    again = manifests.load(storage, now.path)
    assert again is not None
    assert manifests.missing(storage, again) is None


def test_what_any_pipeline_of_the_storage_refers_to_stays(storage: Storage) -> None:
    for pipeline in ("mine", "yours"):
        _refer(storage, pipeline, _artifact(storage, "clean", pipeline, (_unit(storage, "clean", "map", pipeline),)))
    _age(storage, "units", "artifacts")
    assert collection.collect(storage, delete=True).paths == []


def test_a_file_of_another_artifact_that_a_manifest_names_stays(storage: Storage) -> None:
    other = _artifact(storage, "words", "other", ())
    entry = other.outputs["out"].files["card.json"]
    key = digest("borrower")
    made = Manifest(
        manifests.manifest_path("words", key), "words", key, {"out": SlotContent("vocabulary", (), {"card.json": entry})}, {}, {}, {}
    )
    storage.write_json(made.path, made.plain())
    _refer(storage, "mine", made)
    paths = collection.collect(storage, delete=True).paths
    assert entry.path not in paths
    assert other.path in paths


def test_what_a_champions_record_names_by_path_or_by_key_stays(storage: Storage) -> None:
    by_path, by_key, neither = (_artifact(storage, "export", name, ()) for name in ("path", "key", "neither"))
    _refer(storage, "mine")
    storage.write_json("pipelines/mine/champion.json", {"model": storage.url(by_path.path), "lineage": [{"key": by_key.key}]})
    storage.write_json("pipelines/mine/runs/r1.json", {"stages": {"export": {"key": neither.key}}})
    paths = collection.collect(storage, delete=True).paths
    assert {path.split("/")[2] for path in paths} == {neither.key}


def test_units_that_no_manifest_names_go_only_when_they_are_old(storage: Storage) -> None:
    young, old, listed = (_unit(storage, "dedup", "signatures", name) for name in ("young", "old", "listed"))
    _refer(storage, "mine", _artifact(storage, "dedup", "now", (), units=[listed.key]))
    then = time.time() - OLD_S
    for shard in (old, listed):
        for suffix in (".rows.arrow", ".json"):
            os.utime(Path(storage.root) / shard.path.replace(".rows.arrow", suffix), (then, then))
    paths = collection.collect(storage, delete=True).paths
    assert {Path(path).name.split(".")[0] for path in paths} == {old.key}
    assert storage.exists(young.path)
    assert storage.exists(listed.path)


def test_checkpoints_of_an_interrupted_training_stay_until_they_are_old(storage: Storage) -> None:
    key = digest("training")
    storage.write(f"work/pretrain/{key}/checkpoints/10/checkpoint.json", b"{}")
    finished = _artifact(storage, "pretrain", "now", ())
    storage.write(f"work/pretrain/{finished.key}/spool/1.jsonl", b"{}")
    _refer(storage, "mine", finished)
    assert collection.collect(storage, delete=True).paths == []
    _age(storage, "work")
    assert collection.collect(storage, delete=True).paths == [f"work/pretrain/{key}/checkpoints/10/checkpoint.json"]


def test_temporary_files_go_when_their_owner_is_dead_and_not_before(storage: Storage) -> None:
    owners = {"alive": lease.identity(), "dead": {**lease.identity(), "started": "1"}, "elsewhere": {**lease.identity(), "host": "other"}}
    for name, owner in owners.items():
        storage.write(f"tmp/{name}/tmp.1", b"x")
        storage.write_json(f"tmp/{name}/owner.json", owner)
    storage.write("tmp/nobody/tmp.1", b"x")
    assert {path.split("/")[1] for path in collection.collect(storage, delete=False).paths} == {"dead"}
    _age(storage, "tmp/alive", "tmp/elsewhere", "tmp/nobody")
    assert {path.split("/")[1] for path in collection.collect(storage, delete=True).paths} == {"dead", "elsewhere", "nobody"}
    assert storage.exists("tmp/alive/tmp.1")


def test_sources_pipelines_and_mlflow_are_never_touched(storage: Storage) -> None:
    for path in ("sources/npm/x", "pipelines/mine/runs/r0.json", "pipelines/mine/notes.txt", "mlflow/mlflow.db", "mlflow.db", "mine.txt"):
        storage.write(path, b"{}")
    before = _all(storage)
    _age(storage, "")
    assert collection.collect(storage, delete=True).paths == []
    assert {path: content for path, content in _all(storage).items() if not path.endswith(".guard")} == before


def test_deleting_is_refused_while_any_pipeline_runs_and_looking_is_not(storage: Storage) -> None:
    dropped = _artifact(storage, "clean", "before", ())
    _refer(storage, "mine")
    with lease.hold(storage, "pipelines/yours/lease.json", "run-9"):
        assert dropped.path in collection.collect(storage, delete=False).paths
        with pytest.raises(LockedError, match="run-9"):
            collection.collect(storage, delete=True)
    assert storage.exists(dropped.path)
    assert dropped.path in collection.collect(storage, delete=True).paths
    assert not storage.exists("pipelines/mine/lease.json")


def test_a_damaged_state_stops_the_collection_since_what_it_refers_to_is_not_known(storage: Storage) -> None:
    made = _artifact(storage, "clean", "now", ())
    _refer(storage, "mine", made)
    state = Path(storage.root) / "pipelines/mine/state.json"
    state.write_text(state.read_text()[:-20])
    with pytest.raises(IntegrityError):
        collection.collect(storage, delete=True)
    assert storage.exists(made.path)


def test_a_damaged_manifest_that_is_referred_to_stops_the_collection(storage: Storage) -> None:
    made = _artifact(storage, "clean", "now", (_unit(storage, "clean", "map", "now"),))
    _refer(storage, "mine", made)
    path = Path(storage.root) / made.path
    plain = json.loads(path.read_text())
    plain["content"]["outputs"]["out"]["shards"] = []
    path.write_text(json.dumps(plain))
    with pytest.raises(IntegrityError, match="damaged"):
        collection.collect(storage, delete=True)


def test_an_empty_storage_has_nothing_to_collect(storage: Storage) -> None:
    assert collection.collect(storage, delete=True) == collection.Collected([], 0)


def test_an_object_store_is_collected_by_the_same_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage.at(f"memory://collect-{os.getpid()}/root")
    kept = _unit(storage, "clean", "map", "now")
    _refer(storage, "mine", _artifact(storage, "clean", "now", (kept,)))
    young = _unit(storage, "clean", "map", "young")
    before = _artifact(storage, "clean", "before", ())
    assert {path.split("/")[2] for path in collection.collect(storage, delete=False).paths} == {before.key}
    later = time.time() + OLD_S
    monkeypatch.setattr(collection.time, "time", lambda: later)
    paths = collection.collect(storage, delete=True).paths
    assert young.path in paths
    assert kept.path not in paths
    assert not storage.exists(before.path)
    assert storage.exists(kept.path)
