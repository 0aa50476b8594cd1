"""The README's "Add a cleaning rule", "Add a source" and "Add a stage", done to a copy of the program word for word, and the pipeline run with them.

A fenced block says in its first line what it is: `# path` a new file, `# NAME in path` a line of that registry, `# pipeline.yaml` settings to merge in.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline import document
from tests.end_to_end import tiny

HEADINGS = ("Add a cleaning rule", "Add a source", "Add a stage")
MESSAGES = "greeting\tGood day to you.\nparting\tUntil we meet again.\nno tab\n"
_BLOCK = re.compile(r"^```(\w+)\n# (.+?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(heading: str) -> list[tuple[str, str]]:
    """(what it is, content) of each fenced block of a section of the README."""
    readme = (tiny.ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    assert section is not None, f"README.md has no section {heading!r}"
    found = [(match[2], match[3]) for match in _BLOCK.finditer(section[1])]
    assert len(found) == section[1].count("```") // 2, f"{heading}: a block does not say in its first line what it is"
    return found


def _follow(heading: str, program: Path, settings: dict[str, Any], scratch: Path) -> tuple[dict[str, Any], list[str]]:
    """Do what the section says; the settings it leads to, and the kinds of steps taken."""
    steps = []
    for number, (what, content) in enumerate(_blocks(heading)):
        registry, is_line, path = what.partition(" in ")
        if what == "pipeline.yaml":
            part = scratch / f"{heading}-{number}.yaml"
            part.write_text(content, encoding="utf-8")
            settings = tiny.merged(settings, document.read(part).data)
            steps.append("settings")
        elif is_line:
            (line,) = content.splitlines()
            before = (program / path).read_text(encoding="utf-8")
            opened = re.search(rf"^{registry} = \{{\n(?:    .*\n)+(?=\}}\n)", before, re.MULTILINE)
            assert opened is not None, f"{path} has no literal dict {registry}"
            (program / path).write_text(before[: opened.end()] + line + "\n" + before[opened.end() :], encoding="utf-8")
            steps.append("line")
        else:
            assert not (program / what).exists(), f"{what} is there already"
            (program / what).parent.mkdir(exist_ok=True)
            (program / what).write_text(content, encoding="utf-8")
            steps.append("file")
    return settings, steps


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """A copy of the program with all additions, a project's file, and how its run to `clean` ended."""
    folder = tmp_path_factory.mktemp("extended")
    program = folder / "program"
    for package in ("pipeline", "stages"):
        shutil.copytree(tiny.ROOT / package, program / package, ignore=shutil.ignore_patterns("__pycache__"))
    settings = {**tiny.settings(), "quarantine": {"max_share": 1}}
    for heading in HEADINGS:
        settings, steps = _follow(heading, program, settings, folder)
        assert sorted(steps) == ["file", "line", "settings"], f"{heading} is one new file, one registry line, and its use"
    file = tiny.make(folder / "project")
    file.write_text(json.dumps(settings, ensure_ascii=False))
    english = folder / "project" / "text" / "en.txt"
    english.write_text(english.read_text().replace("father", "“father”").replace("letters", "‘letters’"))
    (folder / "project" / "messages").mkdir()
    (folder / "project" / "messages" / "en.tsv").write_text(MESSAGES)
    (folder / "home").mkdir()
    done = tiny.run(file, "--until", "clean", env={"PYTHONPATH": str(program), "HOME": str(folder / "home")})
    assert done.returncode == 0, done.stdout + done.stderr
    return program, file, done


def test_the_new_rule_changes_the_text_and_is_counted(extended: tuple[Path, Path, Any]) -> None:
    from pipeline.tables import rows

    _, file, _ = extended
    made = tiny.manifests(file.parent / "storage")["clean"]["content"]
    assert made["counts"]["changed"]["documents: quotes"] > 0
    texts = [row["text"] for shard in made["outputs"]["documents"]["shards"] for row in rows(file.parent / "storage" / shard["path"])]
    assert any('"father"' in text for text in texts) and any("'letters'" in text for text in texts)
    assert not any(mark in text for text in texts for mark in "“”‘’")


def test_the_new_source_gives_its_documents_and_quarantines_what_is_none(extended: tuple[Path, Path, Any]) -> None:
    from pipeline.tables import rows

    _, file, _ = extended
    made = tiny.manifests(file.parent / "storage")["ingest"]["content"]
    found = [row for shard in made["outputs"]["documents"]["shards"] for row in rows(file.parent / "storage" / shard["path"])]
    assert {(row["group"], row["text"], row["offset"]) for row in found if row["source"] == "en.tsv"} == {
        ("greeting", "Good day to you.", 0), ("parting", "Until we meet again.", 26),
    }  # fmt: skip
    assert made["ledgers"]["documents"]["languages"]["en"]["quarantined"] == {"too_few_columns": 1}


def test_the_new_stage_runs_by_units_keeps_its_ledger_and_feeds_the_next(extended: tuple[Path, Path, Any]) -> None:
    _, file, done = extended
    assert re.search(r"^thin +ran ", done.stdout, re.MULTILINE)
    made = tiny.manifests(file.parent / "storage")
    thin = made["thin"]["content"]["ledgers"]["documents"]["languages"]
    clean = made["clean"]["content"]["ledgers"]["documents"]["languages"]
    for lang in tiny.WORDS:
        given = tiny.DOCUMENTS + 2 * (lang == "en")  # the new source has two
        assert thin[lang]["in"] == given
        assert 10 < thin[lang]["kept"] < 50  # of 60, each with probability 1/2
        assert thin[lang]["dropped"] == {"not_drawn": given - thin[lang]["kept"]}
        assert clean[lang]["in"] == thin[lang]["kept"]
    assert len(list((file.parent / "storage" / "units" / "thin" / "thin").rglob("*.json"))) == len(made["thin"]["record"]["units"])


def test_the_additions_are_planned_shown_and_checked_like_the_rest(extended: tuple[Path, Path, Any]) -> None:
    program, file, _ = extended
    env = {"PYTHONPATH": str(program)}
    again = tiny.run(file, "--until", "clean", env=env)
    assert "up to date; nothing to do" in again.stdout
    assert re.search(
        r"^thin +will run +settings\.share: 0\.5 → 0\.25$", tiny.run(file, "plan", "stages.thin.share=0.25", env=env).stdout, re.MULTILINE
    )
    assert "Share of the documents that is kept" in tiny.run(file, "plan", "thin", env=env).stdout
    assert "not_drawn" in tiny.run(file, "show", "thin", "ledger", env=env).stdout
    wrong = tiny.run(file, "plan", "stages.thin.shar=0.25", env=env)
    assert wrong.returncode == 2
    assert 'did you mean "share"?' in wrong.stderr
    unknown = tiny.run(file, "plan", "stages.thin=null", "stages.clean.inputs=null", "stages.clean.rules=[quots]", "--json", env=env)
    assert unknown.returncode == 2
    assert "quots" in unknown.stderr
