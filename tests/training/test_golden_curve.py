"""The loss curve of a seeded run, step by step: a change of the engine that is meant to change nothing must leave it as it is.

`python -m tests.training.test_golden_curve` writes the file anew, for a change that is meant; say in the commit why the curve differs.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.training.contract import Record, TrainSettings
from pipeline.training.engine import Alone
from pipeline.training.loop import train
from pipeline.training.objectives.summed import pretraining_loss
from tests.training import pairs

GOLDEN = Path(__file__).parents[1] / "golden" / "loss_curve.json"
FIELDS = ("loss", "gradient_norm", "learning_rate", "tokens")


def curve(name: str) -> list[dict[str, float]]:
    """Ten steps in float32 on one thread with dropout: of one objective, whose feed is alone, or of all in two phases."""
    records: list[Record] = []
    feed = pairs.feed() if name == "all" else pairs.token_feed(name)
    settings = TrainSettings(steps=pairs.STEPS, micro_batch=4, learning_rate=1e-3, warmup_steps=2, precision="fp32", threads=1, seed=7)
    train(
        settings, pairs.with_heads(0.1), feed, pretraining_loss, Alone(), resume_from=None, save=lambda *_: None, watch=records.extend, evaluate=None
    )  # fmt: skip
    return [{field: record[field] for field in FIELDS} for record in records]


@pytest.mark.parametrize("name", ["mlm", "all"])
def test_a_seeded_run_gives_the_recorded_curve(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    found = curve(name)
    assert len(found) == len(golden) == pairs.STEPS
    for step, (one, expected) in enumerate(zip(found, golden, strict=True)):
        # Processors add up in different orders; a change of data, masks, dropout, rate or arithmetic shows in the first digits.
        assert one == pytest.approx(expected, rel=1e-4), f"step {step + 1}"
    assert found[-1]["loss"] != found[0]["loss"]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: curve(name) for name in ("mlm", "all")}, indent=1) + "\n")
