"""The planner: operations against torch's own counter, memory against measured peaks, and what it says of the file at the top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from pipeline.capacity import Job, rank_memory
from pipeline.devices import DEVICES, device_of
from pipeline.model.flops import training_flops
from pipeline.model.sizes import ModelSize
from pipeline.training.contract import Meter, Record
from pipeline.training.engine import Alone
from pipeline.training.loop import train
from pipeline.training.objectives.masked import masked_count
from stages.pretrain import Config
from stages.pretrain.effort import meter_of
from tests.end_to_end import inside
from tests.training.cases import TinyFeed, masked_lm_loss, settings, tiny_module
from tests.training.harness import run_gang

cli = inside.cli
TOP = Path(__file__).resolve().parents[2] / "pipeline.yaml"
SHAPE = (12, 768, 12, 3072)
VOCAB = 30_002
CUTS = {"long": {"length": 128, "micro_batch": 4, "accumulation": 2}, "short": {"length": 64, "micro_batch": 2, "accumulation": 4}}


def test_operations_are_those_that_torch_counts_in_the_librarys_forward_pass() -> None:
    size, rows, length, vocab = ModelSize(3, 48, 4, 80, 66, None), 2, 64, 501
    config = XLMRobertaConfig(
        vocab_size=vocab, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80, max_position_embeddings=66, type_vocab_size=1,
        attn_implementation="eager",
    )  # fmt: skip
    model = XLMRobertaForMaskedLM(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.full((rows, length), 7))
    tokens = rows * length
    assert training_flops(size, vocab, tokens=tokens, squares=rows * length**2, predicted=tokens) == 3 * counter.get_total_flops()
    assert training_flops(size, vocab, tokens=tokens, squares=rows * length**2, predicted=0) < training_flops(
        size, vocab, tokens=tokens, squares=rows * length**2, predicted=None
    )


def test_records_tell_useful_work_by_tokens_that_are_real() -> None:
    records: list[Record] = []
    given: list[tuple[int, str | None, float, float, float]] = []

    def flops(*step: Any) -> float:
        given.append(step)
        return 1e6 * step[2]

    train(
        settings(steps=2), tiny_module(), TinyFeed(), masked_lm_loss, Alone(), resume_from=None, save=lambda *_: None, watch=records.extend,
        evaluate=None, meter=Meter(flops, 4e9),
    )  # fmt: skip
    for step, record in enumerate(records):
        lengths = [TinyFeed().row(step, sample)[1] for sample in range(8)]
        assert given[step] == (0, None, sum(lengths), sum(n * n for n in lengths), TinyFeed().weight(step))
        assert record["flops_per_second"] == pytest.approx(1e6 * sum(lengths) / record["seconds"])
        assert record["mfu"] == pytest.approx(record["flops_per_second"] / 4e9)
        assert record["fill"] == pytest.approx(sum(lengths) / 80)


def test_devices_are_known_by_their_drivers_names() -> None:
    for name, key in (
        ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H100 PCIe", "h100-pcie"), ("NVIDIA A100-SXM4-80GB", "a100-80gb"), ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"), ("NVIDIA L4", "l4"), ("NVIDIA L40S", "l40s"),
    ):  # fmt: skip
        assert device_of(name) is DEVICES[key], name
    assert device_of("Some Other GPU") is None


@pytest.mark.slow
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_the_planned_peak_is_within_15_percent_of_the_measured_one(zero: int, cut: str, tmp_path: Path) -> None:
    """Of 108 million parameters on two ranks, less what stood before the model was built."""
    how: dict[str, Any] = {**CUTS[cut], "zero": zero, "precision": "fp32", "dropout": 0.1}
    found = run_gang("tests.training.memory:measured", 2, {"size": list(SHAPE), "vocab": VOCAB, **how}, tmp_path / "gang")
    size, predicted = ModelSize(*SHAPE, CUTS[cut]["length"] + 2, None), int(masked_count(CUTS[cut]["length"], 2))
    job = Job(size, VOCAB, ranks=2, predicted=predicted, on_cpu=True, **how)
    assert job.parameters > 100_000_000
    measured, planned = max(each["peak"] for each in found), rank_memory(job).peak
    print(f"zero {zero}, {cut}: planned {planned / 2**20:,.0f} MiB, measured {measured / 2**20:,.0f} MiB")
    assert planned == pytest.approx(measured, rel=0.15)


def test_the_plan_of_a_file_says_what_it_needs_and_creates_nothing(tmp_path: Path, cli: inside.Cli) -> None:
    base = (
        "stages.pretrain.model=xlm-r-base",
        "stages.vocabulary.size=250002",
        "stages.pack.length=512",
        "stages.pretrain.global_batch=8192",
    )
    done = cli("plan", TOP, "--capacity", "--nodes", "8", "--gpu", "h100", "--text-gb", "10", f"storage={tmp_path / 'none'}", *base)
    assert done.code == 0, done.text
    assert "278,295,186 parameters" in done.out and "64 ranks" in done.out and done.out.count("fits") == 5
    assert "tokens/s" in done.out and "days" in done.out and "GiB in all" in done.out
    assert not (tmp_path / "none").exists()
    small = cli(
        "plan",
        TOP,
        "pretrain",
        "--capacity",
        "--gpu",
        "v100-16gb",
        "--gpus",
        "1",
        *base,
        "stages.pretrain.model=xlm-r-large",
        "stages.pretrain.micro_batch=64",
    )
    assert "does not fit" in small.out and "fp32" in small.out
    missing = cli("plan", TOP, "pretrain", "--capacity", f"stages.pretrain.start.path={tmp_path}")
    assert missing.code == 3 and f"{tmp_path} has no config.json" in missing.text
    emulated = cli("plan", TOP, "--capacity", "--gpu", "v100-32gb", "--gpus", "1", "stages.pretrain.precision=bf16")
    assert emulated.code == 2 and "a v100-32gb does not compute in bf16; it has fp16, fp32" in emulated.text
    for wrong, said in ((("--gpu", "h1000"), "--gpu 'h1000' is not known; known: b200"), (("--nodes", "3"), "24 ranks do not divide")):
        refused = cli("plan", TOP, "--capacity", *wrong)
        assert refused.code == 2 and said in refused.text
    assert "says nothing of what it needs; those that do: pretrain" in cli("plan", TOP, "dedup", "--capacity").text


def test_muon_is_planned_with_one_moment_of_the_layers_matrices() -> None:
    size = ModelSize(*SHAPE, 130, None)
    common: dict[str, Any] = {
        "length": 128,
        "micro_batch": 4,
        "accumulation": 1,
        "ranks": 2,
        "precision": "bf16",
        "dropout": 0.1,
        "predicted": 19,
    }
    matrices = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    for zero, share in ((0, 1), (1, 2), (3, 2)):
        adamw, muon = (rank_memory(Job(size, VOCAB, zero=zero, optimizer=name, **common)).optimizer for name in ("adamw", "muon"))
        assert adamw - muon == 4 * matrices // share


def test_operations_of_a_phase_on_the_embeddings_are_not_those_of_the_encoder() -> None:
    phases = ({"share": 0.5, "contrast_on": "embeddings"}, {"share": 0.5})
    meter = meter_of(Config(steps=4, objectives={"contrast": 1.0}, phases=phases), ModelSize(2, 32, 2, 64, 66, None), "xlm-r", 500, Alone())
    assert meter.flops(0, None, 100.0, 1000.0, 8.0) == 0 < meter.flops(1, None, 100.0, 1000.0, 8.0)
