import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline.errors import ConfigError, StageError
from pipeline.model.build import build_classifier
from pipeline.model.export import export_huggingface
from pipeline.model.masked_lm import SequenceClassifier, classifier_loss, masked_lm_loss
from pipeline.training import checkpoint
from pipeline.training.contract import Record, TrainOutcome
from pipeline.training.engine import Alone
from pipeline.training.loop import micro_batch_count, tensors_of, train
from tests.training.cases import PLACES, TinyFeed, run, settings, tiny_module
from tests.training.conftest import TwoRanks
from tests.training.harness import RankGang


def watched(gang: Any = None, evaluate: Any = None, **changes: Any) -> tuple[TrainOutcome, list[list[Record]], list[int]]:
    batches: list[list[Record]] = []
    saved: list[int] = []
    outcome = train(
        settings(**changes),
        tiny_module(),
        TinyFeed(),
        masked_lm_loss,
        gang or Alone(),
        resume_from=None,
        save=lambda step, engine, meta: saved.append(step),
        watch=lambda records: batches.append(list(records)),
        evaluate=evaluate,
    )
    return outcome, batches, saved


def test_training_lowers_the_loss() -> None:
    records = run(Alone(), steps=60, learning_rate=3e-2, global_batch=8, schedule="constant")["records"]
    assert len(records) == 60
    assert np.mean([r["loss"] for r in records[-10:]]) < np.mean([r["loss"] for r in records[:5]])


def test_records_come_in_batches_and_none_is_lost() -> None:
    outcome, batches, saved = watched(steps=7, log_every=3)
    assert [[int(r["step"]) for r in batch] for batch in batches] == [[1, 2, 3], [4, 5, 6], [7]]
    assert saved == [7]
    assert outcome.steps == 7 and not outcome.interrupted
    assert outcome.final_loss == batches[-1][-1]["loss"]


def test_only_rank_0_is_watched(two_ranks: TwoRanks) -> None:
    assert len(two_ranks.rank_0["0-1"]["records"]) == 3
    assert two_ranks.rank_1["0-1"]["records"] == []
    assert two_ranks.rank_1["0-1"]["outcome"]["final_loss"] == two_ranks.rank_0["0-1"]["outcome"]["final_loss"]


def test_tokens_are_counted_by_language_without_padding(two_ranks: TwoRanks) -> None:
    feed = TinyFeed()
    rows = [feed.row(step, sample) for step in range(3) for sample in range(8)]
    expected = [[language, sum(length for _, length, _, of in rows if of == language)] for language in range(3)]
    for result in (two_ranks.rank_0["2-4"], two_ranks.rank_1["2-4"]):
        assert result["outcome"]["tokens_by_language"] == expected
    first = two_ranks.rank_0["2-4"]["records"][0]
    assert first["tokens"] == sum(length for _, length, _, _ in rows[:8])
    assert first["tokens_per_second"] == pytest.approx(first["tokens"] / first["seconds"])


def test_checkpoints_are_made_when_due_and_at_the_end_once() -> None:
    gang = RankGang()
    assert watched(gang, steps=6, checkpoint_every=2)[2] == [2, 4, 6]
    assert gang.checkpoints == 3
    assert watched(steps=5, checkpoint_every=2)[2] == [2, 4, 5]


def test_an_evaluation_sees_a_module_at_rest_and_its_figures_join_the_record() -> None:
    def evaluate(module: torch.nn.Module, step: int) -> Mapping[str, float]:
        assert not any(part.training for part in module.modules()) and not torch.is_grad_enabled()
        loss = masked_lm_loss(module, tensors_of(TinyFeed().batch(99, range(8)), torch.device("cpu")))
        return {"held_out": float(loss) / TinyFeed().weight(99), "at": step}

    _, batches, _ = watched(steps=5, evaluate_every=2, evaluate=evaluate)
    records = [record for batch in batches for record in batch]
    assert [record.get("at") for record in records] == [None, 2, None, 4, 5]
    assert 2.0 < records[1]["held_out"] < 6.0


def test_an_evaluation_changes_no_step() -> None:
    def evaluate(module: torch.nn.Module, step: int) -> Mapping[str, float]:
        torch.rand(step)
        masked_lm_loss(module, tensors_of(TinyFeed().batch(5, range(4)), torch.device("cpu")))
        return {}

    for zero in (0, 2, 3):
        plain = watched(steps=4, zero=zero)[1][-1]
        evaluated = watched(steps=4, zero=zero, evaluate_every=1, evaluate=evaluate)[1][-1]
        assert [r["loss"] for r in plain] == [r["loss"] for r in evaluated]


def test_a_loss_that_is_no_number_stops_all_ranks_at_its_step_and_saves_nothing(two_ranks: TwoRanks) -> None:
    for result in (two_ranks.rank_0["poisoned"], two_ranks.rank_1["poisoned"]):
        assert result["error"][0] == "StageError"
        assert "loss is" in result["error"][1] and "at step 3" in result["error"][1]
        assert result["saved"] == []
    assert [record["step"] for record in two_ranks.rank_0["poisoned"]["records"]] == [1, 2]


@pytest.mark.fault("K5")
def test_preemption_of_one_rank_saves_and_stops_both(two_ranks: TwoRanks) -> None:
    for result in (two_ranks.rank_0["preempted"], two_ranks.rank_1["preempted"]):
        assert result["saved"] == [4]
        assert result["outcome"]["interrupted"] and result["outcome"]["steps"] == 4


@pytest.mark.fault("K5")
def test_a_preempted_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = run(Alone(), steps=5, dropout=0.1)
    first = run(RankGang(patience=1), steps=5, dropout=0.1, log_every=1, keep=str(tmp_path))
    assert first["outcome"]["interrupted"] and first["saved"] == [2]
    second = run(Alone(), steps=5, dropout=0.1, resume_from=str(tmp_path / "2"))
    assert [r["loss"] for r in first["records"] + second["records"]] == [r["loss"] for r in whole["records"]]
    assert second["digest"] == whole["digest"]


def test_a_run_resumed_at_its_end_makes_no_step_and_no_checkpoint(tmp_path: Path) -> None:
    whole = run(Alone(), steps=2, keep=str(tmp_path))
    again = run(Alone(), steps=2, resume_from=str(tmp_path / "2"))
    assert again["records"] == [] and again["saved"] == [] and again["outcome"]["steps"] == 2
    assert again["digest"] == whole["digest"]
    assert again["outcome"]["tokens_by_language"] == whole["outcome"]["tokens_by_language"]


def test_the_precision_of_a_checkpoint_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(Alone(), steps=2, precision="bf16", keep=str(tmp_path), checkpoint_every=1)
    assert checkpoint.read_meta(tmp_path / "1").precision == "bf16"
    assert run(Alone(), steps=2, precision="auto", resume_from=str(tmp_path / "1"))["outcome"]["precision"] == "bf16"
    assert run(Alone(), steps=2, precision="fp32", resume_from=str(tmp_path / "1"))["outcome"]["precision"] == "bf16"
    assert "fp32 is asked for and ignored" in caplog.text


@pytest.mark.fault("R5")
def test_a_resume_with_another_global_batch_or_fewer_steps_is_refused(tmp_path: Path) -> None:
    run(Alone(), steps=3, keep=str(tmp_path))
    error = run(Alone(), steps=4, global_batch=16, resume_from=str(tmp_path / "3"))["error"]
    assert error[0] == "ConfigError" and "resume with the global batch" in error[1]
    error = run(Alone(), steps=2, resume_from=str(tmp_path / "3"))["error"]
    assert error[0] == "ConfigError" and "stands at step 3" in error[1]


def test_world_sizes_divide_the_global_batch() -> None:
    assert micro_batch_count(48, 4, 5) == 3
    with pytest.raises(ConfigError, match="5 ranks do not divide a global batch of 48"):
        micro_batch_count(48, 5, 4)


def test_a_feed_that_gives_too_few_micro_batches_or_nothing_to_predict_is_found() -> None:
    class Short(TinyFeed):
        def micro_batches(self, step: int, rank: int, world_size: int, micro_batch: int) -> Any:
            return list(super().micro_batches(step, rank, world_size, micro_batch))[:-1]

    class Empty(TinyFeed):
        def weight(self, step: int) -> float:
            return 0.0

    for feed, message in ((Short(), "came in 1 micro-batches, 2 were expected"), (Empty(), "nothing in it is to be predicted")):
        with pytest.raises(StageError, match=message):
            train(
                settings(micro_batch=4),
                tiny_module(),
                feed,
                masked_lm_loss,
                Alone(),
                resume_from=None,
                save=lambda *_: None,
                watch=lambda _: None,
                evaluate=None,
            )


@dataclasses.dataclass(frozen=True)
class Examples:
    input_ids_BT: npt.NDArray[np.int64]
    attention_BT: npt.NDArray[np.bool_]
    positions_BT: npt.NDArray[np.int64]
    labels_B: npt.NDArray[np.int64]
    weights_B: npt.NDArray[np.float32]


class ExampleFeed:
    """Texts of the class "high" say id 40 over and over, those of "low" id 9; every fourth row only fills up."""

    global_batch = 16

    def micro_batches(self, step: int, rank: int, world_size: int, micro_batch: int) -> Iterator[Examples]:
        labels = np.random.default_rng(step).integers(0, 2, self.global_batch)
        ids = np.repeat(np.where(labels == 1, 40, 9)[:, None], PLACES, axis=1)
        weights = (np.arange(self.global_batch) % 4 < 3).astype(np.float32)
        for start in range(0, self.global_batch, micro_batch):
            part = slice(start, start + micro_batch)
            shape = ids[part].shape
            positions = np.broadcast_to(np.arange(2, PLACES + 2), shape)
            yield Examples(ids[part], np.ones(shape, dtype=bool), positions, labels[part], weights[part])

    def weight(self, step: int) -> float:
        return 12.0


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_a_classifier_learns_through_the_same_loop_whatever_the_cut(tmp_path: Path, zero: int) -> None:
    export_huggingface(tiny_module().model, tmp_path)
    courses = []
    for micro_batch in (16, 4):
        module = SequenceClassifier(build_classifier(tmp_path, ["low", "high"], seed=0, dropout=0.0))
        records: list[Record] = []
        train(
            settings(steps=25, micro_batch=micro_batch, zero=zero),
            module,
            ExampleFeed(),
            classifier_loss,
            Alone(),
            resume_from=None,
            save=lambda *_: None,
            watch=records.extend,
            evaluate=None,
        )
        courses.append([record["loss"] for record in records])
    assert courses[0][:3] == pytest.approx(courses[1][:3], rel=1e-5)
    assert np.mean(courses[0][-3:]) < 0.5 * np.mean(courses[0][:3])


def test_only_arrays_become_tensors() -> None:
    tensors = tensors_of(TinyFeed().batch(0, range(2)), torch.device("cpu"))
    assert tensors["input_ids_BT"].shape == (2, PLACES) and tensors["input_ids_BT"].dtype == torch.int64
    assert tensors["attention_BT"].dtype == torch.bool and tensors["weights_M"].dtype == torch.float32
