"""Checkpoint: float32 master weights and optimizer moments in safetensors, `checkpoint.json` last; loads at any world size and ZeRO stage.

The artifact of a finished training holds the final checkpoint's files below `final/` and `training.json`: model shape, objective, languages, losses, baselines.
"""

from __future__ import annotations

from pipeline.artifacts.artifact import Artifact

CHECKPOINT = Artifact("checkpoint", "weights and optimizer state of a training run")
