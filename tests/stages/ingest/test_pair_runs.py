"""Bitext through real runs: real files with plain settings, partners and keys accounted for, streams cut for the stages behind."""

from __future__ import annotations

import json
import lzma
import random
from pathlib import Path
from typing import Any

from pipeline.manifest import Manifest, State, load
from pipeline.storage import Storage
from pipeline.tables import read_table
from tests.end_to_end import inside

cli = inside.cli


def pipeline(folder: Path, languages: list[str], sources: list[dict[str, Any]], **ingest: Any) -> Path:
    folder.mkdir(exist_ok=True)
    stages = {"ingest": {"sources": sources, **ingest}, "clean": {"identify": False}}
    file = folder / "pipeline.yaml"
    file.write_text(json.dumps({"name": "pairs", "languages": languages, "storage": "storage", "stages": stages}))
    return file


def made(folder: Path, stage: str = "ingest") -> Manifest:
    storage = Storage.at(str(folder / "storage"))
    found = load(storage, State.load(storage, "pairs").instances[stage]["manifest"])
    assert found is not None
    return found


def rows(folder: Path, slot: str, stage: str = "ingest") -> list[dict[str, Any]]:
    shards = made(folder, stage).outputs[slot].shards
    return [row for shard in shards for row in read_table(folder / "storage" / shard.path).to_pylist()]


def ledger(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = made(folder).ledgers[name]["languages"]
    return found


def test_the_files_of_ntrex_are_pairs_and_aligned_documents_with_plain_settings(tmp_path: Path, data: Path, cli: inside.Cli) -> None:
    ntrex = data / "ntrex128"
    english, other = f"{ntrex}/newstest2019-src.eng.txt", f"{ntrex}/newstest2019-ref.{{lang}}.txt"
    sources = [
        {"kind": "moses", "path": other, "other": english, "line_group": "ntrex"},
        {"kind": "text", "path": f"{ntrex}/newstest2019-*.{{lang}}.txt", "line_group": "news"},
    ]
    folder = tmp_path / "ntrex"
    outcome = cli("run", pipeline(folder, ["en", "af", "zh-Hans", "th"], sources, pivot="en"), "--until", "ingest")
    assert outcome.code == 0, outcome.text
    lines = {
        lang: (ntrex / f"newstest2019-{name}.txt").read_text().split("\n")[:-1]
        for lang, name in (("en", "src.eng"), ("af", "ref.afr"), ("zh-Hans", "ref.zho-CN"), ("th", "ref.tha"))
    }
    expected = sorted((lang, i, text, lines["en"][i]) for lang in ("af", "zh-Hans", "th") for i, text in enumerate(lines[lang]))
    for family in ("ntrex", "news"):  # from two files; from documents with one group
        found = [row for row in rows(folder, "bitext") if row["group"].startswith(f"{family}:")]
        assert sorted((r["lang_a"], int(r["group"].partition(":")[2]) - 1, r["text_a"], r["text_b"]) for r in found) == expected
        assert {r["lang_b"] for r in found} == {"en"}
    # The translation of the English source into English is none.
    assert ledger(folder, "documents")["en-en"]["dropped"] == {"same_language": 1631}
    assert {lang: account["kept"] for lang, account in ledger(folder, "pairs").items() if lang != "en"} == {
        lang: len(lines[lang]) for lang in ("af", "zh-Hans", "th")
    }


def test_the_tables_of_sib_200_are_aligned_documents_with_plain_settings(tmp_path: Path, data: Path, cli: inside.Cli) -> None:
    source = {"kind": "csv", "path": f"{data}/sib200/{{lang}}/train.tsv", "delimiter": "\t", "group_column": "index_id"}
    folder = tmp_path / "sib"
    outcome = cli("run", pipeline(folder, ["en", "th", "bo"], [source], pivot="en"), "--until", "ingest")
    assert outcome.code == 0, outcome.text
    tables = {}
    for lang, name in (("en", "eng_Latn"), ("th", "tha_Thai"), ("bo", "bod_Tibt")):
        lines = (data / "sib200" / name / "train.tsv").read_text().splitlines()[1:]
        tables[lang] = {line.split("\t")[0]: line.split("\t")[2] for line in lines}
    expected = sorted((lang, key, text, tables["en"][key]) for lang in ("th", "bo") for key, text in tables[lang].items())
    assert sorted((r["lang_a"], r["group"], r["text_a"], r["text_b"]) for r in rows(folder, "bitext")) == expected and len(expected) > 1000


def test_every_document_with_a_key_is_paired_or_counted(tmp_path: Path, cli: inside.Cli) -> None:
    texts = [("en", "7", "seven"), ("en", "7", "again seven"), ("de", "7", "sieben"), ("de", "7", "nochmal sieben"), ("fr", "7", "sept"),
             ("de", "8", "acht"), ("fr", None, "rien"), ("en", "9", "nine"), ("fr", "10", "dix"), ("fr", "10", "encore dix")]  # fmt: skip
    for number in range(3):  # a key's texts come from several files
        mine = [{"text": text, "lang": lang, "group": group} for lang, group, text in texts[number::3]]
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine))
    source = {"kind": "jsonl", "path": str(tmp_path / "*.jsonl"), "lang_field": "lang", "group_field": "group"}
    folder = tmp_path / "keys"
    outcome = cli("run", pipeline(folder, ["en", "de", "fr"], [source], pivot="en", unit_bytes=1024), "--until", "ingest")
    assert outcome.code == 0, outcome.text
    first = {}  # of each key and language, by id
    for row in sorted(rows(folder, "documents"), key=lambda row: row["id"]):
        first.setdefault((row["group"], row["lang"]), row["text"])
    assert sorted((r["lang_a"], r["lang_b"], r["text_a"], r["text_b"]) for r in rows(folder, "bitext")) == [
        ("de", "en", first["7", "de"], first["7", "en"]),
        ("fr", "en", "sept", first["7", "en"]),
    ]
    assert {lang: {"in": a["in"], "kept": a["kept"], **a["dropped"]} for lang, a in ledger(folder, "pairs").items()} == {
        "en": {"in": 3, "kept": 0, "pivot_itself": 2, "duplicate_key": 1},
        "de": {"in": 3, "kept": 1, "duplicate_key": 1, "no_counterpart": 1},
        "fr": {"in": 4, "kept": 1, "duplicate_key": 1, "no_counterpart": 1, "no_group": 1},
    }


def test_files_that_are_not_aligned_end_the_run_and_a_missing_partner_its_start(tmp_path: Path, cli: inside.Cli) -> None:
    for name, lines in (("a.de", 3), ("a.en", 3), ("b.de", 4), ("b.en", 5)):
        (tmp_path / name).write_text("".join(f"{name} {n}\n" for n in range(lines)))
    folder = tmp_path / "apart"
    file = pipeline(folder, ["de", "en"], [{"kind": "moses", "path": str(tmp_path / "*.{lang}"), "other": str(tmp_path / "*.en")}])
    outcome = cli("run", file, "--until", "ingest")
    assert outcome.code == 4
    assert "b.de and b.en: not aligned: b.de ends with line 4, b.en goes on with line 5." in outcome.text
    (tmp_path / "b.en").unlink()
    outcome = cli("run", file, "--until", "ingest")
    assert outcome.code == 3 and f"{tmp_path}/b.de: no file of" in outcome.text
    (tmp_path / "b.de").unlink()
    outcome = cli("run", file, "--until", "ingest")
    assert outcome.code == 0 and [row["text_b"] for row in rows(folder, "bitext")] == ["a.en 0", "a.en 1", "a.en 2"], outcome.text


def test_a_stream_that_cannot_be_split_is_cut_for_the_stages_behind_and_loses_nothing(tmp_path: Path, cli: inside.Cli) -> None:
    draw = random.Random(5)
    lines = [f"line {n} " + "word " * draw.randint(1, 40) for n in range(300)]
    lines[100] = "long " * 2000  # longer than a shard may be: it has one of its own
    (tmp_path / "text.en.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    (tmp_path / "pairs.de-en.tsv.xz").write_bytes(lzma.compress("\n".join(f"{line}\t{line}!" for line in lines).encode()))
    sources = [
        {"kind": "text", "path": str(tmp_path / "text.{lang}.xz")},
        {"kind": "tsv-pairs", "path": str(tmp_path / "pairs.{lang}-en.tsv.xz")},
    ]
    found: dict[int, Any] = {}
    for unit_bytes in (4096, 16 << 20):
        folder = tmp_path / f"cut-{unit_bytes}"
        file = pipeline(folder, ["en", "de"], sources, unit_bytes=unit_bytes)
        outcome = cli("run", file, "--until", "clean" if unit_bytes == 4096 else "ingest")
        assert outcome.code == 0, outcome.text
        shards = made(folder).outputs
        found[unit_bytes] = [rows(folder, slot) for slot in ("documents", "bitext")], ledger(folder, "documents")
        if unit_bytes == 4096:
            assert len(shards["documents"].shards) > 8 and len(shards["bitext"].shards) > 16
            assert len({shard.path for shard in shards["documents"].shards}) == len(shards["documents"].shards)
            assert [len(rows(folder, slot, "clean")) for slot in ("documents", "bitext")] == [300, 300]
            # The next stage has a unit a shard; the stream itself was one.
            assert len(made(folder, "clean").outputs["documents"].shards) == len(shards["documents"].shards)
            assert "ingest: read: 1 of 1 units to do" in outcome.text
            sizes = [
                sum(len(text) for text in read_table(folder / "storage" / shard.path)["text"].to_pylist())
                for shard in shards["documents"].shards
            ]
            assert sum(size > 4096 for size in sizes) == 1
            # A lost part is found, and the stream read again to the same bytes.
            victim = folder / "storage" / shards["documents"].shards[3].path
            before = victim.read_bytes()
            victim.unlink()
            again = cli("run", file, "--until", "clean")
            assert again.code == 0 and victim.read_bytes() == before, again.text
        else:
            assert [len(shards[slot].shards) for slot in ("documents", "bitext")] == [1, 1]
    assert found[4096] == found[16 << 20]
