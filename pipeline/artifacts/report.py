"""Report: `report.html`, one self-contained page, and `report.json`, the figures it shows."""

from __future__ import annotations

from pipeline.artifacts.artifact import Artifact

REPORT = Artifact("report", "one page with the evidence of a run")
