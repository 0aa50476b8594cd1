"""float16 with loss scaling: near float32's course, a step that overflows is made again and nothing of it is counted twice, and the scale goes on with the run."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.accelerator import get_accelerator

from pipeline.errors import ConfigError
from pipeline.training import engine, loss_scale
from pipeline.training.checkpoint import read_meta
from pipeline.training.engine import Alone, Engine
from pipeline.training.loss_scale import LossScale
from pipeline.training.precision import resolve_precision
from tests.training.cases import run, tiny_module
from tests.training.test_engine import BASE

STAGES = (0, 1, 2, 3)
TOO_MUCH = 2.0**24
"""A scale at which the gradients of the tiny run overflow."""


@pytest.fixture
def computes_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed asks the CPU's instructions; torch computes without them too, slowly."""
    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda _: True)


def course(first: float, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    monkeypatch.setattr(engine, "LossScale", partial(LossScale, first))
    result = run(Alone(), precision="fp16", **changes)
    assert result["error"] is None, result["error"]
    return result


def test_the_scale_doubles_after_a_window_of_updates_and_halves_down_to_its_least() -> None:
    scale = LossScale(4.0)
    for _ in range(loss_scale.WINDOW - 1):
        scale.made()
    assert scale == LossScale(4.0, loss_scale.WINDOW - 1)
    scale.made()
    assert scale == LossScale(8.0)
    scale.made()
    assert scale.lowered() and scale == LossScale(4.0)
    assert [scale.lowered() for _ in range(4)] == [True, True, False, False] and scale.value == loss_scale.LEAST
    most = LossScale(loss_scale.MOST, loss_scale.WINDOW)
    most.made()
    assert most.value == loss_scale.MOST


@pytest.mark.usefixtures("computes_in_float16")
@pytest.mark.parametrize("zero", STAGES)
@pytest.mark.parametrize("micro_batch", [8, 2])
def test_float16_keeps_near_float32_at_every_stage_and_accumulation(zero: int, micro_batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = run(Alone(), zero=zero, micro_batch=micro_batch)["records"]
    found = course(2.0**10, monkeypatch, zero=zero, micro_batch=micro_batch)["records"]
    assert [record["loss_scale"] for record in found] == [2.0**10] * 3
    for one, other in zip(found, exact, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=3e-3)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=2e-2)
    assert [record["loss"] for record in found] != [record["loss"] for record in exact]


@pytest.mark.usefixtures("computes_in_float16")
@pytest.mark.parametrize("zero", STAGES)
def test_a_step_that_overflows_is_made_again_at_half_the_scale(zero: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = course(TOO_MUCH, monkeypatch, zero=zero)
    settled = found["records"][0]["loss_scale"]
    assert settled < TOO_MUCH and math.log2(settled).is_integer()
    as_from_there = course(settled, monkeypatch, zero=zero)
    assert found["outcome"]["tokens_by_language"] == as_from_there["outcome"]["tokens_by_language"]
    for one, other in zip(found["records"], as_from_there["records"], strict=True):
        assert (one["loss"], one["gradient_norm"], one["tokens"]) == (other["loss"], other["gradient_norm"], other["tokens"])


@pytest.mark.parametrize("zero", [0, 2])
def test_the_scale_goes_on_from_the_checkpoint(
    zero: int, computes_in_float16: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through = course(2.0**9, monkeypatch, zero=zero, steps=4, checkpoint_every=2, keep=str(tmp_path))
    assert read_meta(tmp_path / "2").loss_scale == (2.0**9, 2)
    resumed = course(2.0**3, monkeypatch, zero=zero, steps=4, resume_from=str(tmp_path / "2"))
    assert resumed["outcome"]["precision"] == "fp16"
    told = ("step", "loss", "gradient_norm", "loss_scale")
    assert [[record[key] for key in told] for record in resumed["records"]] == [
        [record[key] for key in told] for record in through["records"][2:]
    ]


def test_a_gradient_that_is_infinite_at_any_scale_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_clip", lambda self: float("inf"))
    result = run(Alone(), precision="fp16")
    assert result["error"][0] == "StageError" and "gradient norm is inf at step 1" in result["error"][1]
    assert result["saved"] == []


def test_a_cpu_without_float16_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda _: False)
    with pytest.raises(ConfigError, match="fp16 with zero 1 to 3 needs a GPU"):
        Engine.start(tiny_module(), replace(BASE, zero=2, precision="fp16"), Alone())


def test_float16_is_taken_where_asked_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("fp16", torch.device("cpu")) == "fp16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert resolve_precision("auto", torch.device("cuda")) == "fp32"
    with pytest.raises(ConfigError, match="set precision to fp16, fp32 or auto"):
        resolve_precision("bf16", torch.device("cuda"))
