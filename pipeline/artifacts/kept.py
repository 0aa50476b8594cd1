"""Kept: the kept documents as files of JSON lines, one a shard, for use outside the pipeline."""

from __future__ import annotations

from pipeline.artifacts.artifact import Artifact

KEPT = Artifact("kept", "kept documents as JSON lines")
"""What a line holds stands in `stages/kept`."""
