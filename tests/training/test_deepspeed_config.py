import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.training.deepspeed_config import EngineSettings, deepspeed_config

BASE = EngineSettings(0, False, "fp32", 8, 1, 1e-2, (0.9, 0.98), 1e-6, 0.01, 1.0)


def test_the_users_deepspeed_settings_go_below_ours() -> None:
    extra = {"wall_clock_breakdown": True, "zero_optimization": {"reduce_bucket_size": 77, "overlap_comm": True}}
    config = deepspeed_config(replace(BASE, zero=2, extra=extra))
    assert config["wall_clock_breakdown"] is True
    assert config["zero_optimization"]["reduce_bucket_size"] == 77
    assert config["zero_optimization"]["stage"] == 2
    assert config["optimizer"]["params"]["torch_adam"] is True
    assert extra == {"wall_clock_breakdown": True, "zero_optimization": {"reduce_bucket_size": 77, "overlap_comm": True}}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"zero_optimization": {"stage": 3}}, r"deepspeed\.zero_optimization\.stage: set by this program from zero"),
        ({"gradient_clipping": 5}, r"deepspeed\.gradient_clipping: set by this program from clip"),
        ({"bf16": {"enabled": False}}, r"deepspeed\.bf16: .* from precision"),
    ],
)
def test_a_deepspeed_setting_that_hides_one_of_ours_is_refused(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        deepspeed_config(replace(BASE, extra=extra))


def test_a_stage_that_does_not_exist_and_offload_without_a_stage_are_refused() -> None:
    with pytest.raises(ConfigError, match="stage 4 does not exist"):
        deepspeed_config(replace(BASE, zero=4))
    with pytest.raises(ConfigError, match="set zero to 1, 2 or 3"):
        deepspeed_config(replace(BASE, offload=True))


def test_the_check_of_a_plan_loads_neither_torch_nor_deepspeed() -> None:
    code = "import sys, pipeline.training.deepspeed_config; print(sorted({'torch', 'deepspeed', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
