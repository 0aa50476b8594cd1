"""A manifest says exactly what is there; whatever was changed in it is found."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import IntegrityError
from pipeline.manifest import Manifest, Shard, SlotContent, State, difference, library_versions, load, manifest_path, missing
from pipeline.storage import Storage

KEY = "ab" * 32


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.at(str(tmp_path))


def made(storage: Storage) -> Manifest:
    shard = storage.write("units/clean/map/ab/x.arrow", b"shard")
    card = storage.write("artifacts/clean/x/card.json", b"{}")
    path = manifest_path("clean", KEY)
    outputs = {
        "documents": SlotContent("documents", (Shard("unit", shard.path, shard.sha256, shard.bytes, 3),), {"card": card}),
        "empty": SlotContent("bitext"),
    }
    manifest = Manifest(path, "clean", KEY, outputs, {"documents": {"unit": "documents"}}, {"rows": 3}, {"run": "r1", "seconds": 1.5})
    storage.write_json(path, manifest.plain())
    return manifest


def test_a_manifest_comes_back_as_it_was_written(storage: Storage) -> None:
    manifest = made(storage)
    found = load(storage, manifest.path)
    assert found == manifest
    assert found is not None
    assert [entry.path for entry in found.entries()] == ["units/clean/map/ab/x.arrow", "artifacts/clean/x/card.json"]
    assert load(storage, "artifacts/none/manifest.json") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain["content"]["outputs"]["documents"]["shards"][0].update(rows=4),
        lambda plain: plain["content"]["outputs"]["documents"]["shards"].clear(),
        lambda plain: plain["content"]["counts"].update(rows=4),
        lambda plain: plain["content"].update(key="cd" * 32),
        lambda plain: plain["content"]["ledgers"].clear(),
        lambda plain: plain["content"]["counts"].update(rows=float("nan")),
        lambda plain: plain.update(content_sha256="0" * 64),
        lambda plain: plain["record"].update(seconds=0.5),
        lambda plain: plain.pop("content"),
        lambda plain: plain.pop("record"),
        lambda plain: plain.update(content=[]),
    ],
)
def test_a_manifest_that_was_changed_by_hand_is_damaged(storage: Storage, change: Any) -> None:
    manifest = made(storage)
    plain = json.loads(storage.read(manifest.path))
    change(plain)
    (Path(storage.root) / manifest.path).write_text(json.dumps(plain))
    with pytest.raises(IntegrityError, match=r"manifest\.json: damaged") as caught:
        load(storage, manifest.path)
    assert caught.value.path == manifest.path


@pytest.mark.parametrize("raw", [b"", b"{cut", b"[]", b"5", b"\xff\xfe"])
def test_a_file_that_is_no_manifest_is_damaged(storage: Storage, raw: bytes) -> None:
    storage.write("m.json", raw)
    with pytest.raises(IntegrityError, match="damaged"):
        load(storage, "m.json")


def test_the_cheap_check_finds_what_is_gone_or_cut_short(storage: Storage) -> None:
    manifest = made(storage)
    assert missing(storage, manifest) is None
    (Path(storage.root) / "artifacts/clean/x/card.json").write_bytes(b"{")
    assert missing(storage, manifest) == "artifacts/clean/x/card.json"
    storage.remove("units/clean/map/ab/x.arrow")
    assert missing(storage, manifest) == "units/clean/map/ab/x.arrow"


def test_a_slots_identity_is_its_bytes_and_order_not_its_place_or_units() -> None:
    shards = tuple(Shard(f"k{n}", f"units/{n}", f"{n}" * 64, 5, n) for n in range(2))
    slot = SlotContent("documents", shards)
    moved = SlotContent("documents", tuple(replace(shard, path=f"elsewhere/{shard.path}", key="other") for shard in shards))
    assert slot.identity() == moved.identity()
    changed = [
        SlotContent("documents", shards[::-1]),
        SlotContent("documents", shards[:1]),
        SlotContent("bitext", shards),
        SlotContent("documents", (replace(shards[0], rows=9), shards[1])),
        SlotContent("documents", (replace(shards[0], sha256="f" * 64), shards[1])),
    ]
    assert len({slot.identity(), *(other.identity() for other in changed)}) == 1 + len(changed)


def test_the_record_is_in_no_digest(storage: Storage) -> None:
    manifest = made(storage)
    later = replace(manifest, record={"run": "r2", "seconds": 99})
    assert later.digests() == manifest.digests()
    assert later.plain()["content_sha256"] == manifest.plain()["content_sha256"]


def test_the_state_of_a_pipeline_is_kept_by_name(storage: Storage) -> None:
    state = State.load(storage, "x")
    assert state.instances == {}
    state.instances["clean"] = {"recipe": {"a": 1}, "manifest": "m"}
    state.save(storage)
    assert State.load(storage, "x").instances == {"clean": {"recipe": {"a": 1}, "manifest": "m"}}
    assert State.load(storage, "y").instances == {}


def test_a_difference_names_each_field_that_changed() -> None:
    before = {"settings": {"size": 16000, "old": 1, "same": [1]}, "version": 1, "title": "1", "flag": 1}
    after = {"settings": {"size": 12000, "new": "x", "same": [1]}, "version": 1, "title": 1, "flag": True}
    assert difference(before, after) == [
        "flag: 1 → True",
        "settings.new: new (x)",
        "settings.old: gone (was 1)",
        "settings.size: 16000 → 12000",
        "title: '1' → 1",
    ]
    assert difference(before, json.loads(json.dumps(before))) == []
    assert max(map(len, difference({"a": "x" * 500}, {"a": "y" * 500}))) < 140


def test_versions_are_those_installed_in_a_fixed_order() -> None:
    assert list(library_versions(("ray", "pydantic")).items()) == [
        ("pydantic", metadata.version("pydantic")),
        ("ray", metadata.version("ray")),
    ]
    with pytest.raises(metadata.PackageNotFoundError):
        library_versions(("no-such-distribution",))
