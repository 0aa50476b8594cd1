"""The summary at the end of a run says what the last completed stages found, and nothing of stages that are not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline import highlights
from pipeline.config import PipelineConfig
from pipeline.manifest import Manifest, State
from stages import report
from tests.stages.report.pieces import Maker, surroundings


def graph(maker: Maker, uri: str | None = None) -> Any:
    """A graph whose instances are those of the maker's storage, with their state saved."""
    settings = PipelineConfig.model_validate({"name": "small", "languages": ("en",), "stages": {}, "tracking": {"uri": uri}})
    state = State.load(maker.storage, "small")
    for given in maker.inputs.values():
        state.instances[given.instance] = {"manifest": given.manifest.path, "digests": given.manifest.digests()}
    state.save(maker.storage)
    instances = [SimpleNamespace(name=given.instance) for given in maker.inputs.values()]
    return SimpleNamespace(settings=settings, storage=maker.storage, instances=[*instances, SimpleNamespace(name="report")])


def made(root: Path, *, task: bool = True, seen: bool = True) -> Maker:
    maker = Maker(root)
    maker.corpus()
    if task:
        maker.training()
        maker.task(seen=seen)
    return maker


def write_report(maker: Maker) -> None:
    output, context = surroundings(maker)
    summary = report.run(report.Config(), maker.inputs, output, context)
    done = Manifest("artifacts/report/one/manifest.json", "report", "one", output.contents(), {}, dict(summary.counts), {})
    maker.storage.write_json(done.path, done.plain())
    state = State.load(maker.storage, "small")
    state.instances["report"] = {"manifest": done.path, "digests": done.digests()}
    state.save(maker.storage)


def test_each_finding_stands_beside_its_baselines(tmp_path: Path) -> None:
    maker = made(tmp_path / "root")
    assert highlights.lines(graph(maker)) == [
        "corpus: 3 languages, 30 documents, 22 kept in 3 languages (dropped: empty 1, near_duplicate 2, too_short 3; quarantined: bad_utf8 2)",
        "pretrain: held-out masked loss 6.500 nats, mean of 3 languages; beside it corpus-wide unigram 7.667 (1.167 nats better), "
        "per-language unigram 6.833 (0.333 nats better)",
        "evaluate: zero-shot accuracy on topics over 2 languages, 95% interval: model 60.0% [57.0, 63.0], never pretrained 40.0% [37.0, 43.0], "
        "majority class 25.0% [22.0, 28.0]",
        "evaluate: The model is better than each baseline. Text seen unlabelled.",
        f"MLflow: mlflow ui --backend-store-uri sqlite:///{tmp_path}/root/mlflow/mlflow.db",
    ]


def test_text_that_was_not_seen_is_not_called_seen(tmp_path: Path) -> None:
    told = highlights.lines(graph(made(tmp_path / "root", seen=False)))
    assert "evaluate: The model is better than each baseline." in told


def test_what_a_pipeline_does_not_have_is_left_out(tmp_path: Path) -> None:
    told = highlights.lines(graph(made(tmp_path / "root", task=False)))
    assert [line.partition(":")[0] for line in told] == ["corpus", "MLflow"]


def test_a_pipeline_that_never_ran_says_nothing(tmp_path: Path) -> None:
    assert highlights.lines(graph(Maker(tmp_path / "root"))) == []


def test_the_report_is_named_and_said_to_be_old_when_what_it_shows_was_made_anew(tmp_path: Path) -> None:
    maker = made(tmp_path / "root")
    pipeline = graph(maker)
    write_report(maker)
    page = f"report: {tmp_path}/root/artifacts/report/one/report/report.html"
    assert page in highlights.lines(pipeline)
    assert Path(page.removeprefix("report: ")).is_file()
    state = State.load(maker.storage, "small")
    state.instances["evaluate"]["digests"] = {"scores": "0" * 64}
    state.save(maker.storage)
    assert any(line.startswith(f"{page} (of an earlier run") for line in highlights.lines(pipeline))


def test_a_tracking_server_is_named_without_its_password_and_secrets_stay_names(tmp_path: Path) -> None:
    maker = made(tmp_path / "root", task=False)
    assert highlights.lines(graph(maker, "https://me:secret@mlflow.example/"))[-1] == "MLflow: open https://mlflow.example/"
    told = highlights.lines(graph(maker, "postgresql://u:${env:DB_PASSWORD}@db/mlflow"))[-1]
    assert told == "MLflow: mlflow ui --backend-store-uri postgresql://db/mlflow"
