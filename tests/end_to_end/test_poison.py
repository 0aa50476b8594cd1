"""One document crashes native code, loops, or eats memory: it is set apart by its id, the rest is byte-identical, and the run says so.

whole      a run in which nothing kills
infected   the same corpus, and the same unit keys, with a function that dies at the marked text; first with no such record allowed, then with one
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus import decided, pair_up
from pipeline.manifest import Manifest, SlotContent, State, load
from pipeline.storage import Storage
from pipeline.tables import rows
from tests.end_to_end import alone, inside, repeats
from tests.end_to_end.inside import Cli
from tests.end_to_end.poison import Poison, infected

cli = alone.cli  # an error of memory is a death that needs no process
on_ray = inside.cli
Row = dict[str, Any]


def manifest(folder: Path, stage: str) -> Manifest:
    storage = Storage.at(str(folder / "storage"))
    found = load(storage, State.load(storage, "repeats").instances[stage]["manifest"])
    assert found is not None
    return found


def slot(folder: Path, stage: str, name: str) -> SlotContent:
    return manifest(folder, stage).outputs[name]


def rows_of(folder: Path, stage: str, name: str) -> list[Row]:
    return [row for shard in slot(folder, stage, name).shards for row in rows(folder / "storage" / shard.path)]


def again(folder: Path, whole: Path, stage: str) -> Path:
    """A copy of `whole` in which a stage and those behind it have not run."""
    shutil.copytree(whole, folder)
    for later in repeats.STAGES[repeats.STAGES.index(stage) :]:
        shutil.rmtree(folder / "storage" / "artifacts" / later)
        shutil.rmtree(folder / "storage" / "units" / later)
    return folder / "pipeline.yaml"


def refused_then_borne(cli: Cli, file: Path, poison: Poison, *more: str) -> str:
    """Run to the poisoned stage: refused with exit 4 and one line that names the record; allowed one such record, it goes on. What the line names."""
    stage = poison.phase.partition(".")[0]
    with pytest.MonkeyPatch.context() as patch:
        infected(patch, poison)
        refused = cli("run", file, "--until", stage, *more)
        assert refused.code == 4, refused.text
        (error,) = [line for line in refused.text.splitlines() if line.startswith("error: ")]
        found = re.search(r"1 record\(s\) kill their worker: .* record \d+ \((.*)\)\. Remove them .* quarantine\.max_poison=1\.$", error)
        assert found is not None and error.startswith(f"error: {stage}: "), error
        assert not (file.parent / "storage" / "artifacts" / stage).exists()
        assert "Traceback" not in refused.text
        borne = cli("run", file, "--until", stage, "quarantine.max_poison=1", *more)
    assert borne.code == 0, borne.text
    named = found.group(1)
    assert any(
        "set apart because it kills its worker" in line and named in line for line in borne.err.splitlines() if f" W {stage}" in line
    )
    (recorded,) = manifest(file.parent, stage).record["poison"]
    assert named in recorded
    quiet = cli("run", file, "--until", stage, "quarantine.max_poison=1")  # the quarantine is part of what was published
    assert quiet.states == {}
    return named


def quarantined(folder: Path, stage: str, ledger: str) -> dict[str, int]:
    accounts = manifest(folder, stage).ledgers[ledger]["languages"]
    for account in accounts.values():
        assert account["in"] == account["kept"] + sum(account["dropped"].values()) + sum(account["quarantined"].values())
    return {reason: count for account in accounts.values() for reason, count in account["quarantined"].items()}


def other_units_are_the_same(folder: Path, whole: Path, stage: str, phase: str, but: int) -> None:
    """All files of the phase's units, but those of `but` units, are as in the whole run and have the same names."""
    mine, theirs = (
        {name: content for name, content in repeats.units(each / "storage").items() if name.startswith(f"{stage}/{phase}/")}
        for each in (folder, whole)
    )
    assert len(mine) == len(theirs)
    assert len({Path(name).name.partition(".")[0] for name in mine if mine[name] != theirs.get(name)}) == but


# ---------------------------------------------------------------- by stage


@pytest.mark.fault("I8")
def test_a_document_that_kills_clean_is_set_apart_by_its_id(
    tmp_path: Path, whole: Path, cli: Cli, what: str = "memory", *more: str
) -> None:
    file = again(tmp_path / "p", whole, "clean")
    named = refused_then_borne(cli, file, Poison("clean.documents", "stages.clean.work.Measurer.measure", what), *more)
    before = rows_of(whole, "clean", "documents")
    (culprit,) = [row for row in before if repeats.MARK in row["text"]]
    assert named == f"id {culprit['id'].hex()}, de.jsonl at {culprit['offset']}"
    assert rows_of(file.parent, "clean", "documents") == [row for row in before if row["id"] != culprit["id"]]
    other_units_are_the_same(file.parent, whole, "clean", "documents", but=1)
    assert quarantined(file.parent, "clean", "documents") == {"poison": 1}


@pytest.mark.fault("I8")
def test_a_pair_that_kills_clean_is_set_apart_by_its_id(tmp_path: Path, whole: Path, cli: Cli) -> None:
    file = again(tmp_path / "p", whole, "clean")
    named = refused_then_borne(cli, file, Poison("clean.bitext", "stages.clean.work.numerals"))
    before = rows_of(whole, "clean", "bitext")
    (culprit,) = [row for row in before if repeats.MARK in row["text_a"]]
    assert named == f"id {culprit['id'].hex()}, de-en.tsv at {culprit['offset']}"
    assert rows_of(file.parent, "clean", "bitext") == [row for row in before if row["id"] != culprit["id"]]
    other_units_are_the_same(file.parent, whole, "clean", "bitext", but=1)
    assert quarantined(file.parent, "clean", "bitext") == {"poison": 1}


def decisions(folder: Path, text: str, made: str) -> dict[bytes, Row]:
    """The decision on each row of text, which are aligned."""
    pairings = pair_up(tuple(slot(folder, "clean", text).shards), tuple(slot(folder, "dedup", made).shards))
    return {row["id"]: decision for each in pairings for row, decision in decided(Storage.at(str(folder / "storage")), each.plain())}


@pytest.mark.fault("I8")
@pytest.mark.parametrize(
    ("text", "made", "ledger", "poison"),
    [
        ("documents", "decisions", "documents", Poison("dedup.hash", "pipeline.text.line_hashes.line_hashes")),
        ("bitext", "pair_decisions", "pairs", Poison("dedup.pair_judge", "pipeline.text.ngrams.shares_ngram")),
    ],
    ids=["documents", "pairs"],
)
def test_what_kills_dedup_is_decided_to_be_poison_and_all_other_decisions_are_the_same(
    tmp_path: Path, whole: Path, cli: Cli, text: str, made: str, ledger: str, poison: Poison
) -> None:
    file = again(tmp_path / "p", whole, "dedup")
    named = refused_then_borne(cli, file, poison)
    before, after = decisions(whole, text, made), decisions(file.parent, text, made)
    (culprit,) = [row for row in rows_of(whole, "clean", text) if repeats.MARK in row.get("text", row.get("text_a"))]
    assert named.startswith(f"id {culprit['id'].hex()}, ")
    assert before[culprit["id"]]["keep"]
    assert (after.pop(culprit["id"])["reason"], before.pop(culprit["id"])["reason"]) == ("poison", "")
    assert after == before
    other_units_are_the_same(file.parent, whole, "dedup", poison.phase.partition(".")[2], but=1)
    assert quarantined(file.parent, "dedup", ledger) == {"poison": 1}


@pytest.mark.fault("I8")
def test_a_document_that_kills_the_search_for_near_copies_is_found_and_compared_with_none(tmp_path: Path, whole: Path, cli: Cli) -> None:
    file = again(tmp_path / "p", whole, "dedup")
    poison = Poison("dedup.shingles", "pipeline.text.shingles.distinct_shingles", mark=repeats.MARK_OF_COPY)
    named = refused_then_borne(cli, file, poison)
    (culprit,) = [row for row in rows_of(whole, "clean", "documents") if repeats.MARK_OF_COPY in row["text"]]
    assert named.startswith(f"id {culprit['id'].hex()}, ")
    before, after = decisions(whole, "documents", "decisions"), decisions(file.parent, "documents", "decisions")
    cluster = {identifier for identifier, decision in before.items() if decision["cluster"] == before[culprit["id"]]["cluster"]}
    assert len(cluster) == 2
    assert all(after[identifier]["keep"] for identifier in cluster)
    assert {k: v for k, v in after.items() if k not in cluster} == {k: v for k, v in before.items() if k not in cluster}


@pytest.mark.fault("I8")
def test_a_record_that_kills_ingest_is_set_apart_by_source_and_offset(tmp_path: Path, whole: Path, cli: Cli) -> None:
    file = again(tmp_path / "p", whole, "ingest")
    named = refused_then_borne(cli, file, Poison("ingest.read", "stages.ingest.reading._Rows.document"))
    before = rows_of(whole, "ingest", "documents")
    (culprit,) = [row for row in before if repeats.MARK in row["text"]]
    assert named == f"de.jsonl at {culprit['offset']}"
    assert rows_of(file.parent, "ingest", "documents") == [row for row in before if row["id"] != culprit["id"]]
    other_units_are_the_same(file.parent, whole, "ingest", "read", but=1)
    assert quarantined(file.parent, "ingest", "documents") == {"poison": 1}


@pytest.mark.fault("I8")
def test_where_reading_a_record_kills_what_follows_in_its_slice_is_set_apart(tmp_path: Path, whole: Path, cli: Cli) -> None:
    file = again(tmp_path / "p", whole, "ingest")
    named = refused_then_borne(cli, file, Poison("ingest.read", "stages.ingest.sources.jsonl.decode"))
    before, after = rows_of(whole, "ingest", "documents"), rows_of(file.parent, "ingest", "documents")
    (at,) = [number for number, row in enumerate(before) if repeats.MARK in row["text"]]
    assert named == f"what follows de.jsonl at {before[at - 1]['offset']}"
    lost = len(before) - len(after)
    assert 0 < lost < 10
    assert after == before[:at] + before[at + lost :]
    other_units_are_the_same(file.parent, whole, "ingest", "read", but=1)
    assert quarantined(file.parent, "ingest", "documents") == {"poison": 1}


# ---------------------------------------------------------------- in truth


@pytest.mark.slow
@pytest.mark.fault("I8")
@pytest.mark.parametrize(("what", "more"), [("segfault", ()), ("eat", ()), ("hang", ("cluster.unit_deadline_s=20",))])
def test_a_document_that_crashes_native_code_or_eats_memory_or_loops_is_set_apart(
    tmp_path: Path, whole: Path, pool: Any, on_ray: Cli, monkeypatch: pytest.MonkeyPatch, what: str, more: tuple[str, ...]
) -> None:
    if what == "eat":  # as cluster.memory_per_worker does where the run opens its own cluster
        monkeypatch.setattr(pool.get(), "settings", replace(pool.get().settings, memory_per_worker=500 << 20))
    test_a_document_that_kills_clean_is_set_apart_by_its_id(tmp_path, whole, on_ray, what, *more)


@pytest.mark.slow
@pytest.mark.fault("I8")
def test_a_document_that_crashes_dedup_or_its_reader_is_set_apart(tmp_path: Path, whole: Path, on_ray: Cli) -> None:
    file = again(tmp_path / "a", whole, "dedup")
    assert refused_then_borne(on_ray, file, Poison("dedup.hash", "pipeline.text.minhash.band_hashes", "segfault")).startswith("id ")
    file = again(tmp_path / "b", whole, "ingest")
    named = refused_then_borne(on_ray, file, Poison("ingest.read", "stages.ingest.sources.jsonl.decode", "segfault"))
    assert named.startswith("what follows de.jsonl at ")
