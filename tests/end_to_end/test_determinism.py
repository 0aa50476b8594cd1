"""The same bytes whatever the number of workers, the order of the units, hash seed, time zone and locale; and again after damage.

control (2 workers, the machine's own surroundings) == 1 worker, shuffled units, another PYTHONHASHSEED, TZ, LC_ALL
one bit of a shard, a record, a manifest or the vocabulary flipped -> named -> made again -> the control's bytes
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.end_to_end import tiny

PACK = ("--until", "pack")
SHUFFLED = {"PIPELINE_UNIT_ORDER": "shuffle:7"}
ELSEWHERE = {"PYTHONHASHSEED": "1234", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TURKISH = {"PYTHONHASHSEED": "0", "TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}


def same_bytes(folder: Path, control: Path, *args: str, env: dict[str, str] | None = None) -> None:
    """A run from nothing in `folder` gives what the control gave, file by file."""
    done = tiny.run(tiny.make(folder), *PACK, *args, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tiny.exact_digests(folder / "storage") == tiny.exact_digests(control / "storage")
    # Not the digests alone: each unit's files under the same names, with the same bytes.
    assert units(folder) == units(control) != {}


def units(folder: Path) -> dict[str, bytes]:
    top = folder / "storage" / "units"
    return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}


@pytest.mark.fault("R1")
def test_one_worker_in_other_surroundings_makes_the_same_bytes(tmp_path: Path, control: Path) -> None:
    same_bytes(tmp_path, control, "cluster.workers=1", env={**SHUFFLED, **ELSEWHERE})


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "env"), [(2, SHUFFLED), (2, ELSEWHERE), (2, TURKISH), (3, {}), (1, {})])
@pytest.mark.fault("R1")
def test_neither_workers_nor_surroundings_change_a_byte(tmp_path: Path, control: Path, workers: int, env: dict[str, str]) -> None:
    same_bytes(tmp_path, control, f"cluster.workers={workers}", env=env)


# ---------------------------------------------------------------- damage


@pytest.fixture
def copied(tmp_path: Path, control: Path) -> Path:
    folder = tmp_path / "p"
    shutil.copytree(control, folder)
    return folder


def shard(folder: Path, stage: str, slot: str) -> Path:
    """The largest shard of an output."""
    shards = tiny.manifests(folder / "storage")[stage]["content"]["outputs"][slot]["shards"]
    return folder / "storage" / max(shards, key=lambda entry: (entry["bytes"], entry["path"]))["path"]


def named_file(folder: Path, stage: str, slot: str, name: str) -> Path:
    files = tiny.manifests(folder / "storage")[stage]["content"]["outputs"][slot]["files"]
    return folder / "storage" / files[name]["path"]


def heals(folder: Path, control: Path, *args: str) -> str:
    """The run goes through, and everything is as it was; what it said on the way."""
    done = tiny.run(folder, *PACK, *args)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tiny.exact_digests(folder / "storage") == tiny.exact_digests(control / "storage")
    verified = tiny.run(folder, "status", "--verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    return done.stderr


@pytest.mark.fault("I1")
def test_a_flipped_bit_is_found_by_status_and_its_file_made_again(copied: Path, control: Path) -> None:
    victim = shard(copied, "pack", "packing")
    tiny.flip(victim)
    found = tiny.run(copied, "status", "--verify")
    assert found.returncode == 6
    assert f"{victim}. The next run makes them again (pack)." in found.stderr, found.stderr
    heals(copied, control)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "slot", "reader"),
    [
        ("ingest", "documents", "clean"),
        ("ingest", "bitext", "clean"),
        ("clean", "documents", "encode"),
        ("dedup", "decisions", "vocabulary"),
        ("encode", "tokens", "pack"),
    ],
)
@pytest.mark.fault("I1")
def test_a_flipped_bit_in_a_shard_is_named_by_its_reader_and_the_shard_made_again(
    copied: Path, control: Path, stage: str, slot: str, reader: str
) -> None:
    victim = shard(copied, stage, slot)
    tiny.flip(victim)
    # The reader has to work again, or it would not look at its input.
    shutil.rmtree(copied / "storage" / "units" / reader)
    shutil.rmtree(copied / "storage" / "artifacts" / reader)
    said = heals(copied, control)
    assert f"{victim}: damaged" in said and f"made again by {stage}" in said, said


@pytest.mark.slow
def test_a_flipped_bit_in_the_vocabulary_is_named_and_the_vocabulary_made_again(copied: Path, control: Path) -> None:
    victim = named_file(copied, "vocabulary", "vocabulary", "vocabulary.model")
    tiny.flip(victim)
    shutil.rmtree(copied / "storage" / "units" / "encode")
    shutil.rmtree(copied / "storage" / "artifacts" / "encode")
    said = heals(copied, control)
    assert f"{victim}: damaged" in said and "made again by vocabulary" in said, said


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["clean", "pack"])
@pytest.mark.fault("I1")
def test_a_flipped_bit_in_a_manifest_is_named_and_the_manifest_made_again(copied: Path, control: Path, stage: str) -> None:
    (victim,) = copied.glob(f"storage/artifacts/{stage}/*/manifest.json")
    tiny.flip(victim)
    planned = tiny.run(copied, "plan")
    assert f"{victim}: damaged" in planned.stdout, planned.stdout + planned.stderr
    found = tiny.run(copied, "status", "--verify")
    assert found.returncode == 6 and str(victim) in found.stderr, found.stderr
    said = heals(copied, control)
    assert f"{stage}: " in said and "damaged" in said, said


@pytest.mark.slow
@pytest.mark.fault("I1")
def test_a_flipped_bit_in_a_units_record_has_the_unit_worked_again(copied: Path, control: Path) -> None:
    victim = shard(copied, "clean", "documents")
    tiny.flip(victim.with_name(f"{victim.name.split('.')[0]}.json"))
    shutil.rmtree(copied / "storage" / "artifacts" / "clean")
    said = heals(copied, control)
    assert "clean: documents: 1 of " in said, said
