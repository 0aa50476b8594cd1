import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import IntegrityError, StageError
from pipeline.model.export import restore_weights
from pipeline.training import checkpoint
from pipeline.training.checkpoint import INDEX, load_checkpoint_weights, plan_files, read_meta
from pipeline.training.engine import Alone
from tests.training.cases import digest_of, exercise_checkpoint, run, tiny_module
from tests.training.conftest import TwoRanks
from tests.training.harness import RankGang


@given(st.dictionaries(st.text("abc.", min_size=1), st.integers(1, 10**6), min_size=1), st.integers(1, 9), st.integers(1, 10**7))
def test_a_plan_gives_every_parameter_to_one_file_and_balances_the_ranks(sizes: dict[str, int], world_size: int, most: int) -> None:
    files = plan_files(sizes, world_size, most)
    assert Counter(name for file in files for name in file.parameters) == Counter(sizes.keys())
    assert [file.name for file in files] == sorted({file.name for file in files})
    assert all(len(file.parameters) == 1 or 12 * sum(sizes[name] for name in file.parameters) <= most for file in files)
    loads = [sum(sizes[name] for file in files if file.rank == rank for name in file.parameters) for rank in range(world_size)]
    assert max(loads) - min(loads) <= max(sizes.values())
    assert files == plan_files(dict(reversed(sizes.items())), world_size, most)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_two_ranks_read_back_bit_for_bit_what_they_wrote_at_any_stage(two_ranks: TwoRanks, zero: int, precision: str) -> None:
    for result in (two_ranks.rank_0[f"state-{zero}-{precision}"], two_ranks.rank_1[f"state-{zero}-{precision}"]):
        assert result["different"] == []
        assert result["meta"] == [12, 96, precision, 5]
    assert two_ranks.rank_0[f"state-{zero}-{precision}"]["files"] == ["model-00000-of-00002.safetensors", INDEX]
    assert two_ranks.rank_1[f"state-{zero}-{precision}"]["files"] == ["model-00001-of-00002.safetensors"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_one_rank_reads_back_bit_for_bit_what_it_wrote_at_any_stage(tmp_path: Path, zero: int, precision: str) -> None:
    result = exercise_checkpoint(RankGang(), str(tmp_path), zero, precision)
    assert result["different"] == []
    assert result["files"] == ("model-00000-of-00001.safetensors", INDEX)


def test_the_weights_that_compute_are_those_that_were_loaded(two_ranks: TwoRanks) -> None:
    """The loss after loading is the same at all stages: the working copies followed the master weights."""
    for precision, tolerance in (("fp32", 1e-6), ("bf16", 2e-2)):
        losses = [two_ranks.rank_0[f"state-{zero}-{precision}"]["loss"] for zero in range(4)]
        assert losses == pytest.approx([losses[0]] * 4, rel=tolerance)


def test_the_files_are_the_same_whatever_stage_wrote_them(two_ranks: TwoRanks) -> None:
    written = [
        [(two_ranks.folder / "state" / f"{zero}-fp32" / f"model-0000{i}-of-00002.safetensors").read_bytes() for i in range(2)]
        for zero in range(4)
    ]
    assert written[0] == written[1] == written[2] == written[3]


@pytest.mark.fault("R5")
def test_a_checkpoint_of_two_ranks_at_stage_2_goes_on_on_one_rank_at_stage_0(two_ranks: TwoRanks) -> None:
    whole = two_ranks.rank_0["before"]
    resumed = run(Alone(), zero=0, micro_batch=8, steps=20, resume_from=str(two_ranks.folder / "before" / "10"))
    assert [record["step"] for record in resumed["records"]] == list(range(11, 21))
    for found, expected in zip(resumed["records"], whole["records"][10:], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-5)
        assert found["learning_rate"] == expected["learning_rate"]
    assert [list(pair) for pair in resumed["outcome"]["tokens_by_language"]] == whole["outcome"]["tokens_by_language"]


@pytest.mark.parametrize("name", ["fp32", "fp32-3", "bf16", "bf16-1"])
def test_two_ranks_resume_bit_for_bit_with_dropout(two_ranks: TwoRanks, name: str) -> None:
    whole, resumed = two_ranks.rank_0[f"whole-{name}"], two_ranks.rank_0[f"resumed-{name}"]
    kept = ("step", "loss", "gradient_norm", "learning_rate", "tokens")
    assert [[r[key] for key in kept] for r in resumed["records"]] == [[r[key] for key in kept] for r in whole["records"][3:]]
    assert resumed["digest"] == whole["digest"]
    assert resumed["outcome"]["tokens_by_language"] == whole["outcome"]["tokens_by_language"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_one_rank_resumes_bit_for_bit_with_dropout(tmp_path: Path, zero: int, precision: str) -> None:
    common = {"dropout": 0.1, "zero": zero, "precision": precision, "steps": 4, "micro_batch": 4}
    whole = run(Alone(), checkpoint_every=2, keep=str(tmp_path), **common)
    resumed = run(Alone(), resume_from=str(tmp_path / "2"), **common)
    assert [(r["loss"], r["gradient_norm"]) for r in resumed["records"]] == [(r["loss"], r["gradient_norm"]) for r in whole["records"][2:]]
    assert resumed["digest"] == whole["digest"]


def one_checkpoint(folder: Path) -> Path:
    run(Alone(), keep=str(folder), steps=1)
    return folder / "1"


def test_the_weights_of_a_checkpoint_are_those_of_the_trained_module(tmp_path: Path) -> None:
    whole = run(Alone(), keep=str(tmp_path), steps=2)
    module = tiny_module(seed=5)
    assert digest_of(module) != whole["digest"]
    restore_weights(module, load_checkpoint_weights(tmp_path / "2"))
    assert digest_of(module) == whole["digest"]


def test_a_changed_byte_is_found_and_its_file_named(tmp_path: Path) -> None:
    directory = one_checkpoint(tmp_path)
    file = directory / "model-00000-of-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model-00000-of-00001\.safetensors: bytes differ from the sha256"):
        load_checkpoint_weights(directory)
    error = run(Alone(), resume_from=str(directory), steps=2)["error"]
    assert error[0] == "IntegrityError" and "model-00000-of-00001.safetensors" in error[1]


def test_a_missing_file_a_truncated_file_and_a_missing_index_are_found(tmp_path: Path) -> None:
    directory = one_checkpoint(tmp_path)
    file = directory / "model-00000-of-00001.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-8])
    with pytest.raises(IntegrityError, match="bytes differ"):
        load_checkpoint_weights(directory)
    file.unlink()
    with pytest.raises(IntegrityError, match="missing from the checkpoint"):
        load_checkpoint_weights(directory)
    (directory / INDEX).write_text("{")
    with pytest.raises(IntegrityError, match="not readable"):
        read_meta(directory)
    (directory / INDEX).unlink()
    with pytest.raises(IntegrityError, match="never completed"):
        read_meta(directory)


def test_a_checkpoint_of_a_newer_format_or_of_another_model_is_refused(tmp_path: Path) -> None:
    directory = one_checkpoint(tmp_path)
    index = json.loads((directory / INDEX).read_text())
    (directory / INDEX).write_text(json.dumps(index | {"format": 2}))
    with pytest.raises(StageError, match="format 2"):
        read_meta(directory)
    for file in index["files"]:
        file["parameters"].remove("model.lm_head.bias")
    (directory / INDEX).write_text(json.dumps(index))
    error = run(Alone(), resume_from=str(directory), steps=2)["error"]
    assert error[0] == "StageError" and "model.lm_head.bias has shape none in the checkpoint" in error[1]


def test_a_rank_that_cannot_write_stops_both(two_ranks: TwoRanks) -> None:
    for result in (two_ranks.rank_0["unwritable"], two_ranks.rank_1["unwritable"]):
        assert result["error"][0] == "StageError" and "could not be written" in result["error"][1]
    assert not (two_ranks.folder / "unwritable" / "1" / INDEX).exists()


def test_many_small_files_hold_the_same_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = exercise_checkpoint(RankGang(), str(tmp_path / "one"), 2, "fp32")
    real = plan_files
    monkeypatch.setattr(checkpoint, "plan_files", lambda sizes, world_size: real(sizes, world_size, 4096))
    many = exercise_checkpoint(RankGang(), str(tmp_path / "many"), 2, "fp32")
    assert len(one["files"]) == 2 and len(many["files"]) > 5
    assert many["different"] == [] and many["loss"] == one["loss"]
    left, right = load_checkpoint_weights(tmp_path / "one/2-fp32"), load_checkpoint_weights(tmp_path / "many/2-fp32")
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
