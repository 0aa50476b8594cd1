"""The gate of retraining: nothing to do, a first champion, a better one, a worse one; the crontab line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import dag, retraining
from pipeline.errors import ConfigError, GateRefusedError, StageError
from pipeline.runner import RunResult, StageResult
from pipeline.tracking import Tracking
from stages import STAGES
from tests.end_to_end import tiny


@pytest.fixture
def graph(tmp_path: Path) -> dag.Graph:
    return dag.load(tiny.make(tmp_path), [], STAGES)


class Scene:
    """Stands in for a run: what it measures, and what was promoted or refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.figures: dict[str, Any] = {}
        self.done: list[str] = []
        ran = RunResult("r", [StageResult("pretrain", "ran")], 1.0, 0)
        monkeypatch.setattr(retraining, "run", lambda graph, choice, tags: ran)
        monkeypatch.setattr(retraining, "measured", lambda graph: dict(self.figures))
        monkeypatch.setattr(retraining, "_versions", lambda graph, tracking: iter([("tiny", 7)]))
        monkeypatch.setattr(Tracking, "promote", lambda tracking, name, version: self.done.append(f"promote {name} {version}"))
        monkeypatch.setattr(Tracking, "reject", lambda tracking, name, version: self.done.append(f"reject {name} {version}"))

    def measure(self, bits: float, digest: str, heldout: str = "h") -> None:
        self.figures = {"bits_per_byte": bits, "loss": bits, "heldout": heldout, "digest": digest, "artifact": "a"}


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def champion(graph: dag.Graph) -> Any:
    return graph.storage.read_json("pipelines/tiny/champion.json")


def test_the_first_model_becomes_champion(graph: dag.Graph, scene: Scene) -> None:
    scene.measure(3.0, "one")
    said = list(retraining.retrain(graph))
    assert scene.done == ["promote tiny 7"]
    assert champion(graph)["digest"] == "one"
    assert "first champion" in said[-1]


def test_a_better_model_takes_over_and_a_worse_one_is_refused_with_exit_7(graph: dag.Graph, scene: Scene) -> None:
    scene.measure(3.0, "one")
    list(retraining.retrain(graph))
    scene.measure(2.5, "two")
    list(retraining.retrain(graph))
    assert champion(graph)["digest"] == "two"
    scene.measure(2.6, "three")
    with pytest.raises(GateRefusedError, match="the champion stays") as refused:
        list(retraining.retrain(graph))
    assert refused.value.exit_code == 7
    assert champion(graph)["digest"] == "two"
    assert scene.done == ["promote tiny 7", "promote tiny 7", "reject tiny 7"]


def test_a_gain_below_the_wanted_one_is_refused(tmp_path: Path, scene: Scene) -> None:
    graph = dag.load(tiny.make(tmp_path), ["retrain.min_gain=0.1"], STAGES)
    scene.measure(3.0, "one")
    list(retraining.retrain(graph))
    scene.measure(2.9, "two")  # 0.069 nats
    with pytest.raises(GateRefusedError):
        list(retraining.retrain(graph))


def test_models_on_different_held_out_text_are_never_compared(graph: dag.Graph, scene: Scene) -> None:
    scene.measure(3.0, "one")
    list(retraining.retrain(graph))
    scene.measure(2.0, "two", heldout="another")
    with pytest.raises(StageError, match="cannot be compared"):
        list(retraining.retrain(graph))
    assert champion(graph)["digest"] == "one"


def test_the_same_model_again_changes_nothing(graph: dag.Graph, scene: Scene) -> None:
    scene.measure(3.0, "one")
    list(retraining.retrain(graph))
    said = list(retraining.retrain(graph))
    assert scene.done == ["promote tiny 7"]
    assert "the champion stays" in said[-1]


def test_the_crontab_line_submits_a_job_and_escapes_what_cron_and_the_shell_would_read(tmp_path: Path) -> None:
    graph = dag.load(tiny.make(tmp_path / "a b"), ["seed=3"], STAGES)
    line = retraining.cron_line(graph, ["storage=s3://x/100%;rm"])
    assert line.startswith("0 3 * * 0 cd ")
    assert "ray job submit --working-dir . -- python -m pipeline retrain pipeline.yaml" in line
    assert f"'{tmp_path}/a b'" in line
    assert r"'storage=s3://x/100\%;rm'" in line
    bad = dag.load(tiny.make(tmp_path / "c"), ["retrain.cron='@weekly'"], STAGES)
    with pytest.raises(ConfigError, match="five fields"):
        retraining.cron_line(bad, [])


@pytest.mark.slow
def test_retraining_for_real_promotes_says_nothing_changed_and_refuses_a_worse_model(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    file = tiny.make(tmp_path)
    first = tiny.run(file, "retrain")
    assert first.returncode == 0, first.stderr
    assert "first champion" in first.stdout
    again = tiny.run(file, "retrain")
    assert again.returncode == 0 and "nothing to do" in again.stdout
    worse = tiny.run(file, "retrain", "stages.pretrain.learning_rate=1e-9")
    assert worse.returncode == 7, worse.stderr
    assert worse.stdout.rstrip().endswith("PIPELINE_EXIT=7")
    storage = tmp_path / "storage"
    client = MlflowClient(tracking_uri=f"sqlite:///{storage}/mlflow/mlflow.db")
    kept = client.get_model_version_by_alias("tiny", "champion")
    assert kept.tags["digest"] == json.loads((storage / "pipelines/tiny/champion.json").read_text())["digest"]
    assert {v.tags["validation_status"] for v in client.search_model_versions("name = 'tiny'")} == {"approved", "rejected"}
