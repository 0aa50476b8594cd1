"""Every pretraining objective learns from real text: its held-out measure ends below its baseline and below that of the random weights it began with."""

from pathlib import Path

import pytest

from tests.benchmarks import objectives
from tests.benchmarks.prepared import Prepared

STEPS = {"mlm": 600, "tlm": 600, "clm": 100, "nsp": 300, "contrast": 100}
"""Enough for each at the benchmark's size."""


@pytest.fixture(scope="module")
def prepared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return objectives.made(data, tmp_path_factory.mktemp("objectives"))


@pytest.mark.slow
@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_an_objective_ends_below_its_baseline_on_real_text(prepared: Prepared, name: str) -> None:
    learned = objectives.learn(name, prepared, STEPS[name])
    assert learned.loss < 0.99 * learned.baseline
    assert learned.loss < 0.99 * learned.untrained
