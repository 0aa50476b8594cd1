"""The verdict of evaluate, in plain words, against what the intervals say."""

from __future__ import annotations

import pytest

from pipeline.tasks.scores import Estimate, Score, Scores
from stages.evaluate.work import _verdict


def scored(value: int, low: int, high: int) -> Scores:
    one = Score(10, 2, Estimate(value, low, high), Estimate(value, low, high))
    return Scores({}, {"zero_shot": one})


@pytest.mark.parametrize(
    ("model", "majority", "untrained", "said"),
    [
        ((50, 45, 55), (10, 8, 12), (20, 18, 22), "better in languages it was not fine-tuned on than each baseline"),
        (
            (10, 8, 12),
            (11, 9, 13),
            (20, 18, 22),
            "worse than the same encoder without pretraining, and no better than always giving the majority",
        ),
        ((10, 8, 12), (11, 9, 13), (10, 8, 12), "no better than always giving the majority class and the same encoder without pretraining"),
        ((30, 28, 32), (11, 9, 13), (29, 27, 31), "no better than the same encoder without pretraining (the 95% intervals meet)"),
    ],
)
def test_the_verdict_says_in_words_what_the_intervals_show(
    model: tuple[int, int, int], majority: tuple[int, int, int], untrained: tuple[int, int, int], said: str
) -> None:
    text = _verdict({"model": scored(*model), "majority": scored(*majority), "untrained": scored(*untrained)})
    assert said in text
    assert ("better in languages" in text) == ("no better" not in text and "worse" not in text)
