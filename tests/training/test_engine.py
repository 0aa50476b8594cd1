from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from pipeline.errors import StageError
from pipeline.training.deepspeed_config import EngineSettings
from pipeline.training.engine import Alone, Engine, decays
from pipeline.training.loop import dropout_seed, tensors_of
from tests.model.test_masked_lm import full_logit_loss
from tests.training.cases import TinyFeed, digest_of, run, tiny_module
from tests.training.conftest import TwoRanks
from tests.training.harness import RankGang

BASE = EngineSettings(0, False, "fp32", 8, 1, 1e-2, (0.9, 0.98), 1e-6, 0.01, 1.0)


def reference_records() -> list[tuple[float, float]]:
    """Loss and gradient norm of three steps in plain PyTorch: one process, the whole batch at once, logits everywhere."""
    module, feed = tiny_module(), TinyFeed()
    named = list(module.named_parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [p for n, p in named if decays(n, p)]}, {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=0.01,
    )
    records = []
    for step in range(3):
        loss = full_logit_loss(module, tensors_of(feed.batch(step, range(8)), torch.device("cpu"))) / feed.weight(step)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 3)
        optimizer.step()
        records.append((loss.item(), norm.item()))
    return records


def assert_same_course(result: dict[str, Any], reference: list[tuple[float, float]]) -> None:
    assert result["error"] is None
    assert len(result["records"]) == len(reference) == 3
    for record, (loss, norm) in zip(result["records"], reference, strict=True):
        assert record["loss"] == pytest.approx(loss, rel=1e-5)
        assert record["gradient_norm"] == pytest.approx(norm, rel=1e-5)
        assert norm > 1.0  # so that clipping bites


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_one_rank_takes_the_steps_of_plain_pytorch_at_any_stage_and_accumulation(zero: int, accumulation: int) -> None:
    assert_same_course(run(Alone(), zero=zero, micro_batch=8 // accumulation), reference_records())


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_two_ranks_take_the_steps_of_plain_pytorch_at_any_stage_and_accumulation(two_ranks: TwoRanks, zero: int, accumulation: int) -> None:
    assert_same_course(two_ranks.rank_0[f"{zero}-{accumulation}"], reference_records())


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_offloading_the_optimizer_changes_no_step(two_ranks: TwoRanks, zero: int) -> None:
    assert_same_course(two_ranks.rank_0[f"{zero}-offload"], reference_records())
    assert_same_course(run(Alone(), zero=zero, micro_batch=2, offload=True), reference_records())


def test_both_ranks_hold_the_same_weights_afterwards(two_ranks: TwoRanks) -> None:
    for name in ("0-1", "0-4", "1-4", "2-4", "2-offload"):
        assert two_ranks.rank_0[name]["digest"] == two_ranks.rank_1[name]["digest"] is not None


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_bfloat16_stays_near_float32(zero: int) -> None:
    records = run(Alone(), zero=zero, micro_batch=2, precision="bf16")["records"]
    for record, (loss, norm) in zip(records, reference_records(), strict=True):
        assert record["loss"] == pytest.approx(loss, rel=5e-3)
        assert record["gradient_norm"] == pytest.approx(norm, rel=5e-2)


def test_a_single_process_leaves_no_process_group_behind() -> None:
    engine = Engine.start(tiny_module(), BASE, Alone())
    assert dist.is_initialized()
    engine.close()
    assert not dist.is_initialized()


def test_several_ranks_without_a_group_are_refused() -> None:
    with pytest.raises(StageError, match="rank 1 of 2 has no process group"):
        Engine.start(tiny_module(), BASE, RankGang(1, 2, 1))


def test_weight_decay_leaves_biases_and_layer_norms_alone() -> None:
    spared = {name for name, parameter in tiny_module().named_parameters() if not decays(name, parameter)}
    assert spared == {name for name, _ in tiny_module().named_parameters() if name.endswith("bias") or "orm.weight" in name}


def test_a_step_with_a_gradient_that_is_no_number_changes_no_weight() -> None:
    for zero in (0, 1, 2, 3):
        module = tiny_module()
        engine = Engine.start(module, replace(BASE, zero=zero), Alone())
        before = {name: values["weight"].clone() for name, values in engine.read_state()}
        batch = tensors_of(TinyFeed(poisoned_step=0).batch(0, range(8)), torch.device("cpu"))
        engine.backward(engine.module(**{k: v for k, v in batch.items() if k != "languages_B"}) / 8, last=True)
        engine.step(1e-2)
        assert not np.isfinite(engine.grad_norm())
        assert all(torch.equal(values["weight"], before[name]) for name, values in engine.read_state())
        engine.close()


def test_dropout_seeds_differ_by_step_rank_and_micro_batch() -> None:
    seeds = {dropout_seed(seed, step, rank, micro) for seed in range(3) for step in range(5) for rank in range(4) for micro in range(4)}
    assert len(seeds) == 3 * 5 * 4 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert digest_of(tiny_module()) == digest_of(tiny_module())
