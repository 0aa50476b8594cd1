"""The vocabulary's plots, as SVG files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def fertility_plot(card: Mapping[str, Any], path: Path) -> None:
    """Pieces per character of each language, sorted; an SVG file at `path`."""
    from pipeline.plots import bars

    bars(_per_character(card), path, title="Pieces per character by language", ylabel="pieces per character")


def compared_plot(card: Mapping[str, Any], path: Path) -> None:
    """Pieces per character of each language, by this vocabulary and by those it is compared with."""
    from pipeline.plots import points

    series = {"this one": _per_character(card)} | {name: _per_character(other) for name, other in card["compared"].items()}
    points(series, path, title="Pieces per character by language and vocabulary", xlabel="pieces per character")


def _per_character(card: Mapping[str, Any]) -> dict[str, float]:
    return {lang: 1e4 / max(1, entry["characters_per_piece"]) for lang, entry in card["languages"].items()}


def fallback_plot(card: Mapping[str, Any], path: Path) -> None:
    """Share of pieces that are single bytes or unknown, by language."""
    from pipeline.plots import bars

    languages = card["languages"]
    layers = {
        name: {lang: entry[f"{key}_share"] / 100 for lang, entry in languages.items()}
        for name, key in (("bytes", "byte_fallback"), ("unknown", "unknown"))
    }
    sums = {lang: layers["bytes"][lang] + layers["unknown"][lang] for lang in languages}
    bars(sums, path, title="Pieces that are single bytes or unknown", ylabel="% of pieces", stacked=layers)


def parity_plot(card: Mapping[str, Any], path: Path) -> None:
    """Pieces of each language for one of English's, on aligned documents."""
    from pipeline.plots import bars

    bars(
        {lang: entry["parity"] / 1e4 for lang, entry in card["languages"].items() if "parity" in entry},
        path,
        title="Pieces against English's on aligned text",
        ylabel="times English",
    )
