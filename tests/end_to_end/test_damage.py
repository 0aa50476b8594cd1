"""Damage on the way through `ingest`, `clean` and `dedup`: shards that are cut, empty or gone, disks that fail, sources that are broken, change or hold next to nothing.

Runs are those of `tests.end_to_end.alone`, on the corpus of `repeats` or a smaller one of the test's own.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pipeline import stage as stages
from pipeline.task import UnitResult
from pipeline.units import Phase, Unit, Workshop
from tests.end_to_end import alone, inside, repeats, tiny

cli = alone.cli
UNTIL = ("--until", "dedup")


def error_of(done: alone.Ended, code: int) -> str:
    """The one line of the error, above the exit code."""
    lines = done.text.splitlines()
    assert (done.code, lines[-1]) == (code, f"PIPELINE_EXIT={code}"), done.text
    assert "Traceback" not in done.text
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert lines[-2] == error
    return error


def nothing_half_published(storage: Path) -> None:
    assert tiny.temporary(storage) == []
    for path in storage.glob("artifacts/*/*/manifest.json"):
        for slot in json.loads(path.read_text())["content"]["outputs"].values():
            for entry in (*slot["shards"], *slot["files"].values()):
                assert (storage / entry["path"]).stat().st_size == entry["bytes"]


def ledger(folder: Path, stage: str, name: str = "documents") -> dict[str, Any]:
    accounts: dict[str, Any] = tiny.manifests(folder / "storage", "repeats")[stage]["content"]["ledgers"][name]["languages"]
    for account in accounts.values():
        assert account["in"] == account["kept"] + sum(account["dropped"].values()) + sum(account["quarantined"].values())
    return accounts


# ---------------------------------------------------------------- shards between stages


@pytest.mark.fault("I2")
@pytest.mark.parametrize(("stage", "reader"), [("ingest", "clean"), ("clean", "dedup")])
def test_a_cut_an_empty_a_missing_and_a_footless_shard_are_found_named_and_made_again(
    drivers: alone.Drivers, tmp_path: Path, whole: Path, stage: str, reader: str
) -> None:
    folder = tmp_path / "p"
    shutil.copytree(whole, folder)
    shards = tiny.manifests(folder / "storage", "repeats")[stage]["content"]["outputs"]["documents"]["shards"]
    cut, empty, missing, footless = (folder / "storage" / entry["path"] for entry in shards[:4])
    cut.write_bytes(cut.read_bytes()[:-100])
    empty.write_bytes(b"")
    missing.unlink()
    footless.write_bytes(footless.read_bytes()[:-100] + bytes(100))  # of the right size: only its reader can tell
    shutil.rmtree(folder / "storage" / "artifacts" / reader)
    shutil.rmtree(folder / "storage" / "units" / reader)
    done = drivers.run(folder / "pipeline.yaml", *UNTIL)
    assert done.code == 0, done.text
    assert f"{footless}: damaged" in done.text and f"made again by {stage}" in done.text, done.text
    assert repeats.units(folder / "storage") == repeats.units(whole / "storage")
    assert repeats.digests(folder / "storage") == repeats.digests(whole / "storage")


@pytest.mark.fault("I1", "I2")
def test_status_names_every_damaged_shard(drivers: alone.Drivers, tmp_path: Path, whole: Path, cli: inside.Cli) -> None:
    folder = tmp_path / "p"
    shutil.copytree(whole, folder)
    shards = tiny.manifests(folder / "storage", "repeats")["dedup"]["content"]["outputs"]["decisions"]["shards"]
    victims = [folder / "storage" / entry["path"] for entry in shards[:3]]
    tiny.flip(victims[0])
    victims[1].write_bytes(b"")
    victims[2].unlink()
    found = cli("status", folder / "pipeline.yaml", "--verify")
    assert found.code == 6
    assert "3 file(s) damaged" in found.err and all(str(victim) in found.err for victim in victims)


# ---------------------------------------------------------------- the machine


@pytest.mark.fault("I3")
@pytest.mark.parametrize(("place", "errno"), [("publish.before_sync", "EROFS"), ("manifest.before", "EACCES")])
def test_a_file_system_that_refuses_ends_the_run_in_one_line_and_the_next_goes_on(
    drivers: alone.Drivers, tmp_path: Path, whole: Path, place: str, errno: str
) -> None:
    file = repeats.make(tmp_path)
    error = error_of(drivers.run(file, *UNTIL, env={"PIPELINE_FAILPOINT": f"{place}:raise-{errno}:{9 if place[0] == 'p' else 2}"}), 4)
    assert f"(failpoint {place})" in error
    nothing_half_published(tmp_path / "storage")
    done = drivers.run(file, *UNTIL)
    assert done.code == 0, done.text
    assert repeats.digests(tmp_path / "storage") == repeats.digests(whole / "storage")


@pytest.mark.fault("I3")
def test_too_many_open_files_for_a_moment_are_waited_out(drivers: alone.Drivers, tmp_path: Path, whole: Path) -> None:
    done = drivers.run(repeats.make(tmp_path), *UNTIL, env={"PIPELINE_FAILPOINT": "publish.before_sync:raise-EMFILE:9"})
    assert done.code == 0, done.text
    assert "Too many open files" in done.text and "tried again" in done.text
    assert repeats.digests(tmp_path / "storage") == repeats.digests(whole / "storage")


@pytest.mark.slow
@pytest.mark.fault("I3")
def test_too_few_open_files_allowed_end_the_run_in_one_line_and_the_next_goes_on(
    drivers: alone.Drivers, tmp_path: Path, whole: Path
) -> None:
    file = repeats.make(tmp_path)
    for bound in (7, 8):  # the first keeps a unit from its files, the second the driver from its sources
        ended = drivers.run(file, *UNTIL, open_files=bound)
        assert "Too many open files" in error_of(ended, ended.code) and ended.code in (3, 4)
        nothing_half_published(tmp_path / "storage")
    done = drivers.run(file, *UNTIL)
    assert done.code == 0, done.text
    assert repeats.digests(tmp_path / "storage") == repeats.digests(whole / "storage")


# ---------------------------------------------------------------- sources


@pytest.mark.fault("I4")
def test_streams_of_every_kind_that_are_cut_broken_or_end_in_garbage_cost_their_rest_and_no_more(
    drivers: alone.Drivers, tmp_path: Path
) -> None:
    file = tiny.make(
        tmp_path, name="repeats", stages=dict.fromkeys(("vocabulary", "encode", "pack", "pretrain", "export", "finetune", "evaluate"))
    )
    text = {lang: (tmp_path / "text" / f"{lang}.txt").read_bytes() for lang in tiny.WORDS}
    shutil.rmtree(tmp_path / "text")
    (tmp_path / "text").mkdir()
    half = {lang: content.index(b"\n\n", len(content) // 2) + 2 for lang, content in text.items()}
    broken = bytearray(lzma.compress(text["de"]))
    broken[len(broken) * 3 // 4] ^= 0xFF
    members = [zstandard.compress(part) for part in (text["hi"][: half["hi"]], text["hi"][half["hi"] :])]
    packed = {
        "en.txt.gz": gzip.compress(text["en"])[:-400],
        "de.txt.xz": bytes(broken),
        "ru.txt.bz2": bz2.compress(text["ru"]) + b"<html>502 Bad Gateway</html>",
        "hi.txt.zst": members[0] + members[1][:-300],
    }
    for name, content in packed.items():
        (tmp_path / "text" / name).write_bytes(content)
    source = f"stages.ingest.sources=[{{kind: text, path: '{tmp_path}/text/{{lang}}.txt.*', documents: blank-line}}]"
    refused = error_of(drivers.run(file, source, "--until", "clean"), 4)
    assert re.search(r"quarantined .* the first at \w\w\.txt\.\w+ byte \d+\. Allowed is quarantine\.max_share=0\.01", refused)
    assert not list((tmp_path / "storage" / "artifacts").glob("ingest/*/manifest.json"))

    borne = drivers.run(file, source, "--until", "clean", "quarantine.max_share=0.9")
    assert borne.code == 0, borne.text
    (warning,) = [line for line in borne.text.splitlines() if " W ingest" in line and "quarantined" in line]
    assert "corrupt 1" in warning and "garbage_tail 1" in warning and "truncated 2" in warning
    accounts = ledger(tmp_path, "ingest")
    assert {lang: account["quarantined"] for lang, account in accounts.items() if lang in tiny.WORDS} == {
        "en": {"truncated": 1}, "de": {"corrupt": 1}, "ru": {"garbage_tail": 1}, "hi": {"truncated": 1},
    }  # fmt: skip
    assert accounts["ru"]["kept"] == tiny.DOCUMENTS - 1  # the last document, which no blank line closes, goes with the garbage behind it
    assert tiny.DOCUMENTS // 3 < accounts["hi"]["kept"] < tiny.DOCUMENTS  # the whole first member
    assert 0 < accounts["en"]["kept"] < tiny.DOCUMENTS
    again = drivers.run(file, source, "--until", "clean", "quarantine.max_share=0.9")
    assert "up to date" in again.text


@pytest.mark.fault("I9")
@pytest.mark.parametrize("change", ["replaced", "appended", pytest.param("removed", marks=pytest.mark.slow)])
def test_a_source_that_changes_while_it_is_read_is_seen_before_the_commit(
    tmp_path: Path, cli: inside.Cli, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    file = repeats.make(tmp_path)
    source = tmp_path / "web" / "de.jsonl"
    before = source.read_bytes()
    original = stages.map_units

    def map_units(workshop: Workshop, phase: Phase, units: Sequence[Unit]) -> list[UnitResult]:
        found = original(workshop, phase, units)
        if phase.name == "read":
            if change == "appended":
                source.write_bytes(before + b'{"text": "late"}\n')
            elif change == "replaced":
                source.write_bytes(before.replace(b"der", b"das"))  # of the same size
            else:
                source.unlink(missing_ok=True)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "map_units", map_units)
        outcome = cli("run", file, "--until", "ingest")
    if change == "removed":
        assert outcome.code == 3 and "de.jsonl: cannot be read: No such file" in outcome.err, outcome.text
    else:
        assert outcome.code == 4, outcome.text
        assert "de.jsonl changed while it was read. Run again when it no longer changes." in outcome.err
    assert not list((tmp_path / "storage" / "artifacts").glob("ingest/*/manifest.json"))
    source.write_bytes(before)
    assert cli("run", file, "--until", "ingest").code == 0


@pytest.mark.fault("I7")
def test_one_document_goes_through_all_stages_and_an_empty_file_beside_it_is_a_warning(drivers: alone.Drivers, tmp_path: Path) -> None:
    file = repeats.make(tmp_path, stages={"heldout": None, "ingest": {"pivot": None}})
    for path in (*tmp_path.glob("text/*"), *tmp_path.glob("web/*"), *tmp_path.glob("pairs/*")):
        path.write_bytes(b"")
    (tmp_path / "text" / "en.txt").write_text("The only document of this corpus is one line long.\n")
    done = drivers.run(file, *UNTIL)
    assert done.code == 0, done.text
    assert "no text in the files of de: nothing can be learnt of them" in done.text
    assert ledger(tmp_path, "dedup") == {"en": {"in": 1, "kept": 1, "dropped": {}, "quarantined": {}}}


@pytest.mark.fault("I7")
def test_where_everything_is_filtered_the_run_says_why(drivers: alone.Drivers, tmp_path: Path) -> None:
    file = repeats.make(tmp_path, stages={"heldout": None})
    error = error_of(drivers.run(file, *UNTIL, "stages.dedup.length.min_characters=100000"), 4)
    assert error.startswith("error: dedup: no document is left (") and "too_short 1" in error
    assert error.endswith("Loosen stages.dedup, or check the sources.")


@pytest.mark.fault("I10")
@pytest.mark.parametrize("code", ["no", "on", "y"])
def test_the_codes_no_on_and_y_are_text_in_the_file_in_an_override_and_in_records(
    drivers: alone.Drivers, tmp_path: Path, code: str
) -> None:
    rows = [{"text": f"Dette er dokument nummer {number} av mange.", "lang": code} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        f"name: repeats\nlanguages: [{code}, en]\nstorage: storage\nstages:\n"
        f"  ingest: {{sources: [{{kind: jsonl, path: rows.jsonl, lang_field: lang}}]}}\n"
    )
    for arguments in ((), (f"languages=[en, {code}]",)):
        done = drivers.run(file, "--until", "ingest", *arguments)
        if code == "no":
            assert done.code == 0, done.text
            assert ledger(tmp_path, "ingest")["nb"]["kept"] == 3
        else:  # no language has this code: it is refused as a word, not as a truth value
            assert (done.code, "Traceback" in done.text) == (2, False)
            assert f"unknown language code '{code}'; did you mean" in done.text
    stated = drivers.run(file, "--until", "ingest", "languages=[nb, en]")
    assert (stated.code, "True" in stated.text) == ((0, False) if code == "no" else (4, False)), stated.text
    if code != "no":
        assert "unknown_language 3" in stated.text
