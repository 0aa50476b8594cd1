import itertools
import math

import pytest

from pipeline.errors import ConfigError
from pipeline.training.schedule import SCHEDULES, multiplier


def curve(schedule: str, warmup: int = 10, total: int = 100) -> list[float]:
    return [multiplier(schedule, update, warmup=warmup, total=total) for update in range(total)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_climbs_in_equal_steps_to_its_peak_and_never_rises_again(schedule: str) -> None:
    values = curve(schedule)
    assert values[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert all(later <= earlier for earlier, later in itertools.pairwise(values[9:]))
    assert all(0.0 < value <= 1.0 for value in values)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (1, 1), (0, 7), (7, 7)])
def test_short_runs_have_a_rate_at_every_update(schedule: str, warmup: int, total: int) -> None:
    assert all(0.0 < value <= 1.0 for value in curve(schedule, warmup, total))


def test_the_shapes_pass_through_their_known_points() -> None:
    assert curve("constant")[99] == 1.0
    assert curve("linear")[55] == pytest.approx(0.5)
    assert curve("linear")[99] == pytest.approx(1 / 90)
    assert curve("cosine")[55] == pytest.approx(0.5)
    assert curve("inverse_sqrt")[39] == pytest.approx(math.sqrt(10 / 40))
    assert curve("wsd")[79] == 1.0
    assert curve("wsd")[85] == pytest.approx(1 - math.sqrt(5 / 20))


def test_an_unknown_schedule_or_a_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="'linaer' is not known; allowed: linear"):
        multiplier("linaer", 0, warmup=0, total=1)
    with pytest.raises(ConfigError, match="11 does not fit into a run of 10"):
        multiplier("linear", 0, warmup=11, total=10)
