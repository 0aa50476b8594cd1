"""The vocabulary's plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def fertility_plot(card: Mapping[str, Any], path: Path) -> None:
    """Pieces per character of each language, sorted, with the share of byte fallback; an SVG file at `path`."""
    from pipeline.plots import bars

    languages = card["languages"]
    values = {lang: 1e4 / max(1, entry["characters_per_piece"]) for lang, entry in languages.items()}
    bars(values, path, title="Pieces per character by language", ylabel="pieces per character")
