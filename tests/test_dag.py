"""A file becomes a graph with every mistake told at once, and a plan with its reasons that writes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import dag, runner
from pipeline.dag import Graph, Planned
from pipeline.errors import ConfigError

REGISTRY = {"one": "tests.fake_stages.one", "two": "tests.fake_stages.two"}


def write(folder: Path, stages: str, top: str = "") -> Path:
    path = folder / "pipeline.yaml"
    path.write_text(f"name: x\nlanguages: [en, no]\nstorage: {folder}/root\n{top}stages:\n{stages}")
    return path


def graph(folder: Path, stages: str, *overrides: str, top: str = "") -> Graph:
    return dag.load(write(folder, stages, top), overrides, REGISTRY)


def complaint(folder: Path, stages: str, *overrides: str, top: str = "") -> str:
    path = write(folder, stages, top)
    with pytest.raises(ConfigError) as caught:
        dag.load(path, overrides, REGISTRY)
    return str(caught.value).replace(str(path), "pipeline.yaml")


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


# The graph


def test_stages_that_are_not_named_run_with_their_defaults_in_order(tmp_path: Path) -> None:
    found = graph(tmp_path, "  two: {size: 9}\n")
    assert [(instance.name, instance.edges) for instance in found.instances] == [
        ("one", ()),
        ("two", (dag.Edge("documents", "one", "documents"),)),
    ]
    assert found.instance("two").config.size == 9
    assert found.languages == ("en", "nb")
    assert found.storage.root == f"{tmp_path}/root"


def test_null_switches_a_stage_off_and_what_needs_it_says_so(tmp_path: Path) -> None:
    assert [instance.name for instance in graph(tmp_path, "  two: null\n").instances] == ["one"]
    told = complaint(tmp_path, "  one: null\n")
    assert "stages.two.inputs.documents: there is no stage 'one' in this pipeline" in told
    assert "the stage two takes its documents from there" in told


def test_instances_under_other_names_use_a_stage_and_name_their_inputs(tmp_path: Path) -> None:
    found = graph(tmp_path, "  more: {uses: one}\n  last: {uses: two, inputs: {documents: more, previous: two.report}}\n")
    assert [instance.name for instance in found.instances] == ["one", "two", "more", "last"]
    assert found.instance("last").edges == (dag.Edge("documents", "more", "documents"), dag.Edge("previous", "two", "report"))
    assert found.descendants("one") == {"two", "last"}
    assert found.descendants("more") == {"last"}


def test_all_mistakes_of_a_file_are_told_at_once_each_at_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLM_MISSING", raising=False)
    stages = (
        "  one:\n    min_lenght: 3\n    sources:\n      - {kind: text, path: a}\n      - {kind: txt, path: b}\n"
        "    title: ${env:XLM_MISSING}\n"
        "  two: {size: many, inputs: {document: one, previous: one}}\n  tow: {}\n  third: {uses: thre}\n  fourth: 5\n"
    )
    told = complaint(tmp_path, stages, "cluster.worker=3", top="seeed: 1\n")
    heads = [line for line in told.splitlines() if line.startswith(("pipeline.yaml:", "override"))]
    assert heads == [
        "pipeline.yaml:4:1  seeed: unknown key",
        "pipeline.yaml:7:5  stages.one.min_lenght: unknown key",
        "pipeline.yaml:10:16  stages.one.sources.1.kind: unknown kind 'txt'",
        "pipeline.yaml:11:12  stages.one.title: the environment variable XLM_MISSING is not set",
        "pipeline.yaml:12:15  stages.two.size: expected a whole number, found 'many'",
        "pipeline.yaml:12:30  stages.two.inputs.document: unknown slot",
        "pipeline.yaml:12:55  stages.two.inputs.previous: one gives no report",
        "pipeline.yaml:13:3  stages.tow: unknown stage 'tow'",
        "pipeline.yaml:14:17  stages.third.uses: unknown stage 'thre'",
        "pipeline.yaml:15:11  stages.fourth: expected settings or null, found 5",
        "override 'cluster.worker'  cluster.worker: unknown key",
    ]
    assert told.endswith("11 errors. Nothing was run.")
    assert 'did you mean "two"?' in told
    assert 'did you mean "workers"?' in told


def test_a_global_batch_that_no_number_of_ranks_divides_is_told_before_anything_runs(tmp_path: Path) -> None:
    registry = REGISTRY | {"three": "tests.fake_stages.three"}
    for workers, refused in (("3", True), ("4", False), ("[9, 15]", True), ("[3, 4]", False), ("0", False)):
        path = write(tmp_path, "  three: {global_batch: 32}\n", f"cluster: {{workers: {workers}}}\n")
        if not refused:
            assert dag.load(path, (), registry).instance("three")
            continue
        with pytest.raises(ConfigError, match="do not divide a global batch of 32; possible: 1, 2, 4, 8, 16, 32") as caught:
            dag.load(path, (), registry)
        assert "pipeline.yaml:4:" in str(caught.value) and "cluster.workers: three: " in str(caught.value)


def test_a_mistake_in_an_extended_file_points_into_it(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("stages:\n  one: {min_lenght: 1}\n")
    path = tmp_path / "top.yaml"
    path.write_text(f"extends: base.yaml\nname: x\nstorage: {tmp_path}/root\n")
    with pytest.raises(ConfigError) as caught:
        dag.load(path, (), REGISTRY)
    assert str(caught.value).startswith(f"{base}:2:9  stages.one.min_lenght: unknown key")


def test_stages_in_a_circle_are_refused_with_the_circle(tmp_path: Path) -> None:
    told = complaint(tmp_path, "  two: {inputs: {previous: again}}\n  again: {uses: two, inputs: {previous: two}}\n")
    assert "the stages form a circle: two → again → two" in told


def test_an_unknown_language_is_told_at_its_place(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(f"name: x\nlanguages: [en, qqx]\nstorage: {tmp_path}/root\nstages: {{}}\n")
    with pytest.raises(ConfigError, match=r"pipeline\.yaml:2:\d+  languages"):
        dag.load(path, (), REGISTRY)


def test_a_stage_that_declares_too_little_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stage broken .* does not declare Config, LIBRARIES, GRADE, INPUTS, OUTPUT, run"):
        dag.load(write(tmp_path, "  broken: {}\n"), (), {**REGISTRY, "broken": "tests.fake_stages.broken"})


def test_asking_for_a_stage_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no stage 'tow' in this pipeline; did you mean two"):
        graph(tmp_path, "  two: {}\n").instance("tow")


# The plan


SOURCES = "  one: {sources: [{kind: text, path: 'text/{lang}.txt'}], %s}\n  two: {size: %d}\n"


def planned(
    folder: Path, *overrides: str, extra: str = "threads: 1", size: int = 5, forced: frozenset[str] = frozenset()
) -> dict[str, Planned]:
    return {item.instance.name: item for item in dag.plan(graph(folder, SOURCES % (extra, size), *overrides), forced=forced)}


def states(found: dict[str, Planned]) -> dict[str, str]:
    return {name: item.state for name, item in found.items()}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two small sources, and a pipeline that was run over them."""
    (tmp_path / "text").mkdir()
    for lang in ("en", "nb"):
        (tmp_path / "text" / f"{lang}.txt").write_text(f"text in {lang}\n")
    result = runner.run(graph(tmp_path, SOURCES % ("threads: 1", 5)))
    assert [(stage.instance, stage.state) for stage in result.stages] == [("one", "ran"), ("two", "ran")]
    return tmp_path


def test_what_was_never_run_is_to_run_and_planning_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "en.txt").write_text("x")
    graph(tmp_path, SOURCES % ("threads: 1", 5))
    before = tree(tmp_path)
    found = {item.instance.name: item for item in dag.plan(dag.load(tmp_path / "pipeline.yaml", (), REGISTRY))}
    assert states(found) == {"one": "run", "two": "run"}
    assert found["one"].reasons == ("never run",)
    assert tree(tmp_path) == before
    assert not (tmp_path / "root").exists()


def test_after_a_run_nothing_is_to_do_and_a_second_run_changes_nothing(corpus: Path) -> None:
    assert states(planned(corpus)) == {"one": "done", "two": "done"}
    before = tree(corpus / "root")
    assert runner.run(graph(corpus, SOURCES % ("threads: 1", 5))).up_to_date
    assert tree(corpus / "root") == before


def test_a_touched_source_and_settings_outside_identity_rerun_nothing(corpus: Path) -> None:
    os.utime(corpus / "text" / "en.txt", ns=(1, 1))
    found = planned(corpus, "cluster.workers=2", "tracking.uri=sqlite:////tmp/x", extra="threads: 64")
    assert states(found) == {"one": "done", "two": "done"}


def test_a_changed_setting_reruns_its_stage_and_is_named_and_what_follows_may_run(corpus: Path) -> None:
    found = planned(corpus, extra="min_length: 11")
    assert states(found) == {"one": "run", "two": "maybe"}
    assert found["one"].reasons == ("settings.min_length: 10 → 11",)
    assert found["two"].reasons == ("documents from one, which runs",)
    found = planned(corpus, size=6)
    assert states(found) == {"one": "done", "two": "run"}
    assert found["two"].reasons == ("settings.size: 5 → 6",)


def test_a_changed_source_is_named(corpus: Path) -> None:
    (corpus / "text" / "en.txt").write_text("other\n")
    found = planned(corpus)
    assert states(found) == {"one": "run", "two": "maybe"}
    assert "sources.en:" in found["one"].reasons[0]


def test_a_new_source_is_named_and_a_lost_artifact_is_made_again(corpus: Path) -> None:
    manifest = planned(corpus)["one"].manifest
    assert manifest is not None
    (corpus / "root" / next(iter(manifest.entries())).path).unlink()
    found = planned(corpus)
    assert found["one"].state == "run"
    assert found["one"].reasons[0].startswith("a file is gone or cut short: ")


def test_a_forced_stage_says_so(corpus: Path) -> None:
    assert planned(corpus, forced=frozenset({"two"}))["two"].reasons == ("forced",)


def test_the_same_corpus_and_storage_elsewhere_have_the_same_recipes(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("elsewhere")
    (other / "text").mkdir()
    for lang in ("nb", "en"):
        (other / "text" / f"{lang}.txt").write_text(f"text in {lang}\n")
    here, there = planned(corpus), planned(other)
    assert {name: item.recipe_key for name, item in here.items()} == {name: item.recipe_key for name, item in there.items()}


def test_an_upstream_rerun_with_the_same_bytes_stops_there(corpus: Path) -> None:
    result = runner.run(graph(corpus, SOURCES % ("min_length: 11", 5)))
    assert {stage.instance: stage.state for stage in result.stages} == {"one": "ran", "two": "reused"}
