"""The plots of a card: lengths and confidence of identification, one column a language, and what became of the documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.stage import Output

SCALE = 10_000


def draw(card: Mapping[str, Any], output: Output) -> None:
    """Write the plots that there is something for, as evidence."""
    from pipeline.plots import heatmaps

    rows = {lang: row for lang, row in card["languages"].items() if row["decided"]}
    if not rows:
        return
    edges = card["edges"]["characters"]
    held = [n for n in range(len(edges)) if any(row["lengths"][n] for row in rows.values())]
    shown = slice(held[0], held[-1] + 1)
    labels = [f"{edge:,}" for edge in edges[shown]]
    shares = {lang: _parts(row["lengths"][shown], row["decided"]) for lang, row in rows.items()}
    with output.evidence("lengths.svg") as path:
        heatmaps(shares, labels, path, title="Documents by length", ylabel="characters, from", colour="share of the language's documents")
    if any(sum(row["confidence"]) + sum(row["confidence_other"]) for row in rows.values()):
        shares = {lang: confidence(row) for lang, row in rows.items()}
        with output.evidence("confidence.svg") as path:
            heatmaps(
                shares, confidence_labels(card["edges"]["confidence"]), path, title="Confidence of identification",
                ylabel="as another language | as its own, from", colour="share of the language's documents", rule=len(card["edges"]["confidence"]) / 2 + 0.5,
            )  # fmt: skip


def confidence(row: Mapping[str, Any]) -> list[float]:
    """Shares from surest of another language, over none, to surest of its own."""
    other, own = _halved(row["confidence_other"]), _halved(row["confidence"])
    return _parts([*reversed(other), row["unidentified"], *own], row["decided"])


def confidence_labels(edges: Sequence[int]) -> list[str]:
    """Names of these shares."""
    shown = [f"{edge / SCALE:.1f}" for number, edge in enumerate(edges) if number % 2 == 0]
    return [*(f"other {edge}" for edge in reversed(shown)), "none", *(f"own {edge}" for edge in shown)]


def _halved(counts: Sequence[int]) -> list[int]:
    return [sum(counts[at : at + 2]) for at in range(0, len(counts), 2)]


def _parts(counts: Sequence[int], of: int) -> list[float]:
    return [count / of for count in counts]
