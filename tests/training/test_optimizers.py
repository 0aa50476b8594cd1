"""StableAdamW and Muon against their formulas written out for whole tensors on one process, at every stage, world size and accumulation."""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.training import optimizers
from pipeline.training.checkpoint import load_checkpoint_weights, read_meta
from pipeline.training.deepspeed_config import EngineSettings, deepspeed_config
from pipeline.training.engine import Alone, decays, parameter_groups
from pipeline.training.loop import tensors_of
from pipeline.training.optimizers import NEWTON_SCHULZ, Piece, PiecewiseOptimizer, is_hidden_matrix, orthogonalised
from tests.model.test_masked_lm import full_logit_loss
from tests.training.cases import OPTIMIZERS, TinyFeed, exercise_checkpoint, run, tiny_module
from tests.training.conftest import TwoRanks
from tests.training.harness import RankGang

OWN = ("stable_adamw", "muon")
RATE, BETAS, EPS, DECAY, MOMENTUM = OPTIMIZERS["learning_rate"], (0.9, 0.98), 1e-6, 0.01, 0.95


def textbook_stable_adamw(weight: torch.Tensor, state: dict[str, torch.Tensor], step: int, rate: float, decay: float) -> float:
    """Algorithm 2 of Wortsman et al. 2023, with its debiased decay rates β̂; returns the RMS."""
    assert weight.grad is not None
    gradient = weight.grad
    hats = [beta * (1 - beta ** (step - 1)) / (1 - beta**step) for beta in BETAS]
    state["v"] = hats[0] * state.get("v", torch.zeros_like(weight)) + (1 - hats[0]) * gradient
    state["u"] = hats[1] * state.get("u", torch.zeros_like(weight)) + (1 - hats[1]) * gradient**2
    rms = float((gradient**2 / torch.clamp(state["u"], min=EPS**2)).mean().sqrt())
    eta = rate / max(1.0, rms)
    weight.data = weight.data - eta * decay * weight.data - eta * state["v"] / (state["u"].sqrt() + EPS)
    return rms


def textbook_muon(weight: torch.Tensor, state: dict[str, torch.Tensor], rate: float, decay: float) -> None:
    """Nesterov momentum, five steps of Newton–Schulz, the scale of Moonlight."""
    assert weight.grad is not None
    state["m"] = MOMENTUM * state.get("m", torch.zeros_like(weight)) + weight.grad
    x = weight.grad + MOMENTUM * state["m"]
    x = x / x.norm()
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
    weight.data = weight.data - rate * (0.2 * math.sqrt(max(weight.shape)) * x + decay * weight.data)


def textbook_adamw(weight: torch.Tensor, state: dict[str, torch.Tensor], step: int, rate: float, decay: float) -> None:
    assert weight.grad is not None
    state["v"] = BETAS[0] * state.get("v", torch.zeros_like(weight)) + (1 - BETAS[0]) * weight.grad
    state["u"] = BETAS[1] * state.get("u", torch.zeros_like(weight)) + (1 - BETAS[1]) * weight.grad**2
    update = state["v"] / (1 - BETAS[0] ** step) / ((state["u"] / (1 - BETAS[1] ** step)).sqrt() + EPS)
    weight.data = weight.data - rate * (update + decay * weight.data)


@cache
def reference(optimizer: str) -> tuple[list[float], list[float], list[float]]:
    """The losses and gradient norms, and the RMS of all tensors at all steps, of the formulas on one process."""
    module, feed, steps = tiny_module(), TinyFeed(loud=OPTIMIZERS["loud"]), OPTIMIZERS["steps"]
    states: dict[str, dict[str, torch.Tensor]] = {name: {} for name, _ in module.named_parameters()}
    losses: list[float] = []
    norms: list[float] = []
    all_rms: list[float] = []
    for number in range(steps):
        loss = full_logit_loss(module, tensors_of(feed.batch(number, range(8)), torch.device("cpu"))) / feed.weight(number)
        module.zero_grad()
        loss.backward()
        losses.append(loss.item())
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])))
        rate = RATE * (1 - number / steps)
        for name, weight in module.named_parameters():
            decay = DECAY if decays(name, weight) else 0.0
            if optimizer == "stable_adamw":
                all_rms.append(textbook_stable_adamw(weight, states[name], number + 1, rate, decay))
            elif is_hidden_matrix(name, weight):
                textbook_muon(weight, states[name], rate, decay)
            else:
                textbook_adamw(weight, states[name], number + 1, rate, decay)
    return losses, norms, all_rms


def losses_of(optimizer: str) -> list[float]:
    return reference(optimizer)[0]


def assert_follows(result: dict[str, Any], optimizer: str) -> None:
    assert result["error"] is None
    assert [record["loss"] for record in result["records"]] == pytest.approx(losses_of(optimizer), rel=1e-5)
    # Which says more of the layers than the loss does after so few steps.
    assert [record["gradient_norm"] for record in result["records"]] == pytest.approx(reference(optimizer)[1], rel=1e-5)


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("optimizer", OWN)
def test_one_rank_takes_the_steps_of_the_formula(optimizer: str, zero: int, accumulation: int) -> None:
    assert_follows(run(Alone(), optimizer=optimizer, zero=zero, micro_batch=8 // accumulation, **OPTIMIZERS), optimizer)


def test_large_tensors_in_chunks_and_matrices_in_waves_take_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "CHUNK_ELEMENTS", 7)
    monkeypatch.setattr(optimizers, "WAVE_ELEMENTS", 500)
    for optimizer in OWN:
        assert_follows(run(Alone(), optimizer=optimizer, zero=1, **OPTIMIZERS), optimizer)


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("optimizer", OWN)
def test_two_ranks_take_the_steps_of_the_formula(two_ranks: TwoRanks, optimizer: str, zero: int, accumulation: int) -> None:
    assert_follows(two_ranks.rank_0[f"{optimizer}-{zero}-{accumulation}"], optimizer)
    assert (
        two_ranks.rank_0[f"{optimizer}-{zero}-{accumulation}"]["digest"] == two_ranks.rank_1[f"{optimizer}-{zero}-{accumulation}"]["digest"]
    )


@pytest.mark.parametrize("zero", [1, 3])
@pytest.mark.parametrize("optimizer", OWN)
def test_offloading_changes_no_step(two_ranks: TwoRanks, optimizer: str, zero: int) -> None:
    assert_follows(two_ranks.rank_0[f"{optimizer}-{zero}-offload"], optimizer)


def test_the_three_optimizers_go_different_ways_and_stable_adamw_holds_back() -> None:
    plain = [record["loss"] for record in run(Alone(), **OPTIMIZERS)["records"]]
    courses = [plain, *(losses_of(name) for name in OWN)]
    assert all(abs(one[-1] / other[-1] - 1) > 1e-3 for one, other in itertools.combinations(courses, 2))
    # Else the clipping by RMS would not have been tested.
    assert max(reference("stable_adamw")[2]) > 1.4


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("optimizer", OWN)
def test_in_bfloat16_the_steps_stay_near(optimizer: str, zero: int) -> None:
    records = run(Alone(), optimizer=optimizer, zero=zero, micro_batch=4, precision="bf16", **OPTIMIZERS)["records"]
    assert [record["loss"] for record in records] == pytest.approx(losses_of(optimizer), rel=1e-2)


@pytest.mark.parametrize("optimizer", OWN)
def test_a_checkpoint_holds_the_state_at_any_stage_and_goes_on_at_another(two_ranks: TwoRanks, optimizer: str) -> None:
    for zero in (1, 3):
        for rank in (two_ranks.rank_0, two_ranks.rank_1):
            assert rank[f"state-{optimizer}-{zero}"]["different"] == []
    whole = two_ranks.rank_0[f"{optimizer}-2-1"]["records"]
    for zero in (0, 1, 3):
        resumed = run(Alone(), optimizer=optimizer, zero=zero, **OPTIMIZERS, resume_from=str(two_ranks.folder / f"{optimizer}-2-1" / "2"))
        assert [r["loss"] for r in resumed["records"]] == pytest.approx([r["loss"] for r in whole[2:]], rel=1e-5)


def test_muon_keeps_one_moment_of_a_matrix_and_a_checkpoint_so_much_the_less(tmp_path: Path) -> None:
    result = exercise_checkpoint(RankGang(), str(tmp_path), 2, "fp32", optimizer="muon")
    adamw = exercise_checkpoint(RankGang(), str(tmp_path / "adamw"), 2, "fp32")
    assert result["different"] == [] and read_meta(tmp_path / "2-fp32").optimizer == "muon"
    file = "model-00000-of-00001.safetensors"
    hidden = sum(p.numel() for name, p in tiny_module().named_parameters() if is_hidden_matrix(name, p))
    saved = (tmp_path / "adamw/2-fp32" / file).stat().st_size - (tmp_path / "2-fp32" / file).stat().st_size
    assert 4 * hidden <= saved < 4 * hidden + 4096 and adamw["different"] == []
    assert load_checkpoint_weights(tmp_path / "2-fp32").keys() == load_checkpoint_weights(tmp_path / "adamw/2-fp32").keys()


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    run(Alone(), steps=1, keep=str(tmp_path))
    error = run(Alone(), steps=2, optimizer="muon", resume_from=str(tmp_path / "1"))["error"]
    assert error[0] == "StageError" and "written with optimizer adamw, this run has muon" in error[1]


def test_muon_takes_the_matrices_of_the_layers_and_adamw_the_rest() -> None:
    named = dict(tiny_module().named_parameters())
    settings = EngineSettings(0, False, "fp32", 8, 1, RATE, BETAS, EPS, DECAY, 1.0, optimizer="muon")
    groups = parameter_groups(named, settings)
    assert [(kind, decay) for kind, decay, _ in groups] == [("adamw", DECAY), ("adamw", 0.0), ("muon", DECAY)]
    assert {name.split(".layer.")[1].partition(".")[2] for name in groups[2][2]} == {
        f"{name}.weight"
        for name in (
            "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", "intermediate.dense", "output.dense"
        )
    }  # fmt: skip
    assert "model.lm_head.dense.weight" in groups[0][2] and sorted(name for *_, own in groups for name in own) == sorted(named)


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
def test_newton_schulz_comes_near_the_nearest_orthogonal_matrix(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonalised(matrix) @ right.T
    assert singular.max() / singular.min() > 2.5
    assert (found - torch.diag(found.diagonal())).abs().max() < 1e-4
    assert found.diagonal().min() > 0.6 and found.diagonal().max() < 1.3
    assert torch.equal(orthogonalised(torch.zeros(shape)), torch.zeros(shape))


def test_a_matrix_that_a_step_does_not_reach_stays_where_it_is_though_it_has_momentum() -> None:
    """At ZeRO 1 to 3 its gradient is zeros, at stage 0 none."""
    weights = [torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)).requires_grad_() for seed in range(2)]
    optimizer = PiecewiseOptimizer(
        [{"params": weights, "kind": "muon", "weight_decay": 0.1}], lr=0.1, betas=BETAS, eps=EPS, momentum=MOMENTUM
    )
    pieces = {weight: (Piece(str(number), (6, 4), 0, 0, 24),) for number, weight in enumerate(weights)}
    optimizer.place(pieces, device=torch.device("cpu"), rank=0, ranks=1, is_partitioned=True)
    for weight in weights:
        optimizer.state[weight] = {"step": torch.zeros(()), "exp_avg": torch.ones(6, 4)}
        weight.grad = torch.zeros(6, 4)
    weights[1].grad = torch.eye(6, 4)
    before = [weight.detach().clone() for weight in weights]
    optimizer.step()
    assert torch.equal(weights[0], before[0]) and torch.equal(optimizer.state[weights[0]]["exp_avg"], torch.ones(6, 4))
    assert not torch.equal(weights[1], before[1])


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="optimizer: 'lion' is not known; allowed: adamw, stable_adamw, muon"):
        deepspeed_config(EngineSettings(0, False, "fp32", 8, 1, RATE, BETAS, EPS, DECAY, 1.0, optimizer="lion"))
