"""A rule or a source is one file and one line of its registry, and its docstring says what must be known of it before it is trusted."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from stages.clean.rules import RULES as TEXT_RULES
from stages.dedup.pair_rules import PAIR_RULES
from stages.dedup.rules import RULES
from stages.ingest.sources import SOURCES
from tests.end_to_end import tiny

REGISTRIES = {
    "stages/clean/rules": TEXT_RULES,
    "stages/dedup/rules": RULES,
    "stages/dedup/pair_rules": PAIR_RULES,
    "stages/ingest/sources": SOURCES,
}
NO_ENTRIES = {"__init__.py", "settings.py", "base.py"}
"""Files beside the entries: what they share."""
ENTRIES = [(folder, name) for folder, registry in REGISTRIES.items() for name in registry]


def docstring_of(folder: str, name: str) -> str:
    path = tiny.ROOT / (REGISTRIES[folder][name].replace(".", "/") + ".py")
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


@pytest.mark.parametrize("folder", REGISTRIES)
def test_each_entry_is_a_file_of_its_own_and_each_file_an_entry(folder: str) -> None:
    files = [Path(module.replace(".", "/") + ".py").name for module in REGISTRIES[folder].values()]
    assert len(files) == len(set(files))
    assert {file.name for file in (tiny.ROOT / folder).glob("*.py")} - NO_ENTRIES == set(files)
    assert {module.rpartition(".")[0] for module in REGISTRIES[folder].values()} == {folder.replace("/", ".")}


@pytest.mark.parametrize(("folder", "name"), [entry for entry in ENTRIES if "rules" in entry[0]])
def test_a_rule_says_what_it_measures_its_unit_its_source_and_its_direction(folder: str, name: str) -> None:
    said = docstring_of(folder, name)
    assert re.match(rf"{name}: \S.{{20,}}", said), "it begins with its name and what it measures or does"
    for word in ("unit", "source", "direction"):
        assert len(re.findall(rf"\b{word}:\s+\S", said, re.IGNORECASE)) == 1, f"{name} does not say once, behind `{word}:`, what that is"


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_says_what_a_document_or_pair_is_and_has_the_four_parts_of_one(name: str) -> None:
    first, _, rest = docstring_of("stages/ingest/sources", name).partition("\n")
    assert re.search(r"\bdocuments?\b|\bbitext\b|\bpairs?\b", first) or re.search(r"\bdocument\b", rest)
    module = importlib.import_module(SOURCES[name])
    assert name in module.Config.model_fields["kind"].annotation.__args__
    assert all(callable(getattr(module, part)) and getattr(module, part).__doc__ for part in ("slices", "read", "languages_of"))


def test_the_readme_shows_how_to_add_a_rule_and_a_source_and_contributing_points_there() -> None:
    readme, contributing = ((tiny.ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))
    for heading in ("Add a cleaning rule", "Add a source"):
        section = re.search(rf"^## {heading}\n(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
        assert section is not None and section[1].count("```") == 6  # the file, the line, and its use
    for registry in ("RULES", "PAIR_RULES", "SOURCES"):
        assert f"`{registry}`" in contributing
