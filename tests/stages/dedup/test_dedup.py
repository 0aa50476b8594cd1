"""Duplicates of every kind over a planted corpus, through a real run up to `dedup`: who stays, who goes, and why."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus import decided, pair_up
from pipeline.manifest import SlotContent, State, load
from pipeline.storage import Storage
from tests.end_to_end import inside

cli = inside.cli

DRAW = random.Random(3)
VOCABULARY = ["".join(DRAW.choices("abcdefghijklmnoprstu", k=DRAW.randint(3, 8))) for _ in range(2_000)]


def words(count: int, seed: object) -> list[str]:
    return random.Random(str(seed)).choices(VOCABULARY, k=count)


def edited(text: list[str], places: int, seed: object) -> list[str]:
    draw = random.Random(str(seed))
    copy = list(text)
    for place in draw.sample(range(len(copy)), places):
        copy[place] = draw.choice(VOCABULARY)
    return copy


def planted() -> dict[str, list[dict[str, Any]]]:
    """Records by source file; each names itself in `licence`, so that its decision can be found."""
    base, other = words(150, "base"), words(150, "other")
    shared = " ".join(words(12, "shared line"))
    web = [
        {"licence": "near copy", "text": " ".join(edited(base, 3, 1))},
        {"licence": "copy", "text": " ".join(other)},
        {"licence": "same address, worse source", "text": " ".join(words(90, "web page")), "url": "https://a.example/x"},
        {"licence": "near copy of a page that went", "text": " ".join(edited(words(90, "web page"), 1, 2))},
        {"licence": "with a line of another", "text": " ".join(words(60, "own 1")) + "\n" + shared},
        {"licence": "translation", "text": " ".join(edited(words(150, "article"), 2, 3)), "group": "1", "lang": "de"},
        *({"licence": f"far {n}", "text": " ".join(words(120, f"far {n}"))} for n in range(40)),
    ]
    wiki = [
        {"licence": "original", "text": " ".join(base)},
        {"licence": "copied", "text": " ".join(other)},
        {"licence": "same address, better source", "text": " ".join(words(80, "wiki page")), "url": "https://a.example/x"},
        {"licence": "with a line", "text": " ".join(words(60, "own 2")) + "\n" + shared},
        {"licence": "article", "text": " ".join(words(150, "article")), "group": "1", "lang": "en"},
    ]
    return {"text/web-a.jsonl": web, "text/wiki-a.jsonl": wiki}


def write(folder: Path, records: dict[str, list[dict[str, Any]]]) -> Path:
    for name, rows in records.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"lang": "en", **row}) + "\n" for row in rows))
    fields = {"licence_field": "licence", "group_field": "group", "url_field": "url", "lang_field": "lang"}
    file = folder / "pipeline.yaml"
    file.write_text(
        json.dumps(
            {
                "name": "planted",
                "languages": ["en", "de"],
                "storage": "storage",
                "stages": {
                    "ingest": {
                        "sources": [
                            {"kind": "jsonl", "path": "text/web-*.jsonl", **fields},
                            {"kind": "jsonl", "path": "text/wiki-*.jsonl", **fields},
                        ]
                    },
                    "clean": {"identify": False},
                    "heldout": None,
                    "examples": None,
                    "dedup": {"rules": ["length"], "partitions": 3, "priority": ["wiki-*"]},
                },
            }
        )
    )
    return file


def decisions(folder: Path) -> dict[str, dict[str, Any]]:
    """The decision on each record, by the name it gave itself."""
    storage = Storage.at(str(folder / "storage"))
    state = State.load(storage, "planted")
    slots: dict[str, SlotContent] = {}
    for stage, slot in (("clean", "documents"), ("dedup", "decisions")):
        made = load(storage, state.instances[stage]["manifest"])
        assert made is not None
        slots[slot] = made.outputs[slot]
    pairings = pair_up(tuple(slots["documents"].shards), tuple(slots["decisions"].shards))
    return {text["licence"]: {**decision, "id": text["id"]} for each in pairings for text, decision in decided(storage, each.plain())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


def test_each_kind_of_duplicate_goes_in_favour_of_the_best_source_and_for_its_own_reason(folder: Path, cli: inside.Cli) -> None:
    outcome = cli("run", write(folder, planted()), "--until", "dedup")
    assert outcome.code == 0, outcome.text
    found = decisions(folder)
    reasons = {name: row["reason"] for name, row in found.items() if row["reason"]}
    assert reasons == {"near copy": "near_duplicate", "copy": "duplicate", "same address, worse source": "duplicate_url"}
    assert found["near copy"]["cluster"] == found["original"]["cluster"] == found["original"]["id"]
    assert found["original"]["cluster_size"] == found["copied"]["cluster_size"] == 2
    assert found["far 1"]["cluster"] == found["far 1"]["id"] and found["far 1"]["cluster_size"] == 1


def test_nothing_goes_in_favour_of_what_is_gone_itself(folder: Path) -> None:
    assert decisions(folder)["near copy of a page that went"]["keep"]


def test_a_line_goes_where_a_better_source_has_it_and_the_document_stays(folder: Path) -> None:
    found = decisions(folder)
    assert found["with a line of another"]["dropped_lines"] == [1] and found["with a line of another"]["keep"]
    assert found["with a line"]["dropped_lines"] == []


def test_translations_of_one_group_are_no_near_duplicates(folder: Path) -> None:
    found = decisions(folder)
    assert found["translation"]["keep"] and found["article"]["keep"]


def test_a_new_source_is_judged_alone_and_compared_with_all(folder: Path, cli: inside.Cli) -> None:
    records = planted()
    records["text/web-b.jsonl"] = [{"licence": "late near copy", "text": " ".join(edited(words(120, "far 7"), 2, 9))}]
    outcome = cli("run", write(folder, records), "--until", "dedup")
    assert outcome.code == 0, outcome.text
    assert "dedup: judge: 1 of 2 units to do" in outcome.text
    found = decisions(folder)
    assert {name for name in ("far 7", "late near copy") if found[name]["reason"] == "near_duplicate"} == {
        max("far 7", "late near copy", key=lambda name: found[name]["id"])
    }
