"""What the records tell of ranks, memory and languages."""

from __future__ import annotations

import math
import re

import pytest
import torch

from pipeline.model.masked_lm import masked_lm_loss
from pipeline.training.contract import Record
from pipeline.training.engine import Alone
from pipeline.training.loop import train
from pipeline.training.watching import Busy, Machine, peak_memory, system_metrics
from stages.pretrain.heldout import bits_per_byte, by_byte
from tests.training.cases import TinyFeed, settings, tiny_module
from tests.training.conftest import TwoRanks

CPU = torch.device("cpu")


def test_the_records_that_are_handed_on_tell_of_the_ranks_and_those_of_evaluations_of_the_languages() -> None:
    records: list[Record] = []
    outcome = train(
        settings(steps=5, log_every=2, evaluate_every=3), tiny_module(), TinyFeed(), masked_lm_loss, Alone(), resume_from=None, save=lambda *_: None,
        watch=records.extend, evaluate=lambda module, step: {"heldout/loss": 1.0}, languages=("am", "deu-eng", "zh_Hant"),
    )  # fmt: skip
    assert [record.get("skew") for record in records] == [None, 1.0, None, 1.0, 1.0]
    memory = [record["memory_bytes"] for record in records if "memory_bytes" in record]
    assert memory == sorted(memory) and memory[0] > 1 << 26 and memory[-1] <= peak_memory(CPU)
    logged = [{key for key in record if key.startswith("system/")} for record in records]
    of_host = {f"system/node-0/{name}" for name in Machine.OF_HOST}
    assert logged == [set(), of_host, set(), of_host, of_host]
    assert 0 < records[-1]["system/node-0/system_memory_usage_percentage"] < 100
    assert ["tokens/am" in record for record in records] == [False, False, True, False, True]
    assert [records[-1][f"tokens/{lang}"] for lang in ("am", "deu-eng", "zh_Hant")] == [
        outcome.tokens_by_language[number] for number in range(3)
    ]
    assert sum(value for key, value in records[2].items() if key.startswith("tokens/")) == sum(record["tokens"] for record in records[:3])
    for record in records:
        for name in record:
            assert re.fullmatch(r"[\w./ :-]+", name)  # what MLflow takes


def test_a_slow_rank_is_seen(two_ranks: TwoRanks) -> None:
    even, slow = two_ranks.rank_0["0-1"]["records"][-1], two_ranks.rank_0["slow"]["records"][-1]
    assert 1.0 <= even["skew"] < slow["skew"] <= 2.0 and slow["skew"] > 1.2


def test_each_machine_is_told_once_and_each_gpu_of_it() -> None:
    nan, read = float("nan"), [(0, [1.0, 2.0, 3.0, 4.0, 50.0, 51.0]), (1, [1.0, 2.0, 3.0, 4.0, 60.0, float("nan")])]
    found = system_metrics([*read, (0, [5.0, 6.0, nan, nan, nan, nan])])
    host = dict(zip(Machine.OF_HOST, (1.0, 2.0, 3.0, 4.0), strict=True))
    assert found == {
        **{f"system/node-0/{name}": value for name, value in host.items()},
        "system/node-0/gpu_0_memory_usage_percentage": 50.0,
        "system/node-0/gpu_0_utilization_percentage": 51.0,
        "system/node-0/gpu_1_memory_usage_percentage": 60.0,
        "system/node-1/cpu_utilization_percentage": 5.0,
        "system/node-1/system_memory_usage_percentage": 6.0,
    }


def test_the_network_is_told_since_the_last_reading_received_first(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = iter([(10e6, 100e6), (12e6, 105e6), (12e6, 105e6), None])  # bytes sent, bytes received, as psutil orders them
    monkeypatch.setattr("pipeline.training.watching.psutil.net_io_counters", lambda: next(counted))
    machine = Machine(CPU)
    assert machine.read()[2:4] == [5.0, 2.0] and machine.read()[2:4] == [0.0, 0.0]
    assert all(math.isnan(figure) for figure in machine.read()[2:])


def test_computing_is_counted_from_the_last_time_it_was_asked_for() -> None:
    busy = Busy(CPU)
    busy.start()
    busy.stop()
    first = busy.seconds()
    assert 0 < first < 1 and busy.seconds() == 0.0


def test_losses_are_told_by_byte_and_as_perplexity() -> None:
    sums = {"en": (20.0, 10), "zh": (30.0, 10), "xx": (0.0, 0)}
    covered = {"en": 40, "zh": 20}
    assert bits_per_byte(sums, covered) == pytest.approx({"en": 0.5 / math.log(2), "zh": 1.5 / math.log(2)})
    assert by_byte(sums, covered) == pytest.approx(
        {
            "perplexity/en": math.e**2,
            "perplexity/zh": math.e**3,
            "bits_per_byte/en": 0.5 / math.log(2),
            "bits_per_byte/zh": 1.5 / math.log(2),
            "heldout/bits_per_byte": 1.0 / math.log(2),
        }
    )
    assert by_byte({}, {}) == {}
