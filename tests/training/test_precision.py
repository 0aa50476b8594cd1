import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.training import precision

CPU = torch.device("cpu")


def test_an_explicit_format_is_passed_through_without_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bf16_gain", lambda: pytest.fail("measured"))
    assert precision.resolve_precision("fp32", CPU) == "fp32"
    assert precision.resolve_precision("bf16", CPU) == "bf16"


@pytest.mark.parametrize(("gain", "expected"), [(2.0, "bf16"), (1.0, "fp32"), (0.4, "fp32")])
def test_auto_takes_bfloat16_on_a_cpu_only_where_it_is_faster(monkeypatch: pytest.MonkeyPatch, gain: float, expected: str) -> None:
    monkeypatch.setattr(precision, "bf16_gain", lambda: gain)
    assert precision.resolve_precision("auto", CPU) == expected


def test_the_gain_is_the_ratio_of_two_measured_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "time_matmul", lambda dtype, size, repeats: 3.0 if dtype == torch.float32 else 1.5)
    assert precision.bf16_gain() == 2.0


def test_the_probe_ends_quickly_with_one_of_the_two_formats() -> None:
    assert 0.0 < precision.time_matmul(torch.float32, 64, 2) < 1.0
    assert precision.resolve_precision("auto", CPU) in {"fp32", "bf16"}


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="'fp8' is not known; allowed: auto, fp32, bf16, fp16"):
        precision.resolve_precision("fp8", CPU)
