"""Scores: `scores.json`, every figure in 1/10000 as an integer with its 95% interval, per language and in the mean, beside its baselines; `predictions.tsv`."""

from __future__ import annotations

from pipeline.artifacts.artifact import Artifact

SCORES = Artifact("scores", "figures of quality with intervals and baselines")
