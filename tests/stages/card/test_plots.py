"""The plots of a card: one column a language, small enough for a page, the same bytes for the same figures."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.stage import Output
from pipeline.storage import Storage
from stages.card import OUTPUT, plots
from stages.card.tally import CONFIDENCE_EDGES, EDGES, LENGTH_EDGES


def card(languages: int, *, identified: bool = True) -> dict[str, Any]:
    draw = random.Random(languages)
    rows = {}
    for number in range(languages):
        lengths = [0] * 5 + [draw.randint(0, 40) for _ in LENGTH_EDGES[5:12]] + [0] * (len(LENGTH_EDGES) - 12)
        own = [draw.randint(0, 9) if identified else 0 for _ in CONFIDENCE_EDGES]
        rows[f"x{number:03}"] = {
            "lengths": lengths, "decided": sum(lengths), "confidence": own, "confidence_other": own[::-1], "unidentified": sum(lengths) - 2 * sum(own),
        }  # fmt: skip
    return {"languages": rows, "edges": {name: list(edges) for name, edges in EDGES.items()}}


def drawn(folder: Path, made: dict[str, Any]) -> dict[str, bytes]:
    storage = Storage.at(str(folder), "test")
    storage.prepare()
    output = Output(storage, "artifacts/card/one", OUTPUT)
    plots.draw(made, output)
    return {name: storage.read(entry.path) for name, entry in output.evidence_files.items()}


@pytest.mark.parametrize("languages", [1, 130])
def test_the_same_figures_are_the_same_bytes_few_enough_for_a_page(tmp_path: Path, languages: int) -> None:
    first, second = drawn(tmp_path / "a", card(languages)), drawn(tmp_path / "b", card(languages))
    assert sorted(first) == ["confidence.svg", "lengths.svg"]
    assert first == second
    assert all(len(data) < 200_000 and data.startswith(b"<?xml") for data in first.values())


def test_without_identification_or_without_documents_there_is_nothing_to_plot(tmp_path: Path) -> None:
    assert sorted(drawn(tmp_path / "a", card(3, identified=False))) == ["lengths.svg"]
    assert drawn(tmp_path / "b", card(0)) == {}


def test_confidence_goes_from_surest_of_another_language_over_none_to_surest_of_its_own() -> None:
    row = {"confidence": [0] * 19 + [6], "confidence_other": [0] * 18 + [1, 2], "unidentified": 1, "decided": 10}
    shares = plots.confidence(row)
    assert len(shares) == len(plots.confidence_labels(CONFIDENCE_EDGES)) == 21
    assert (shares[0], shares[10], shares[20]) == (0.3, 0.1, 0.6)
    assert plots.confidence_labels(CONFIDENCE_EDGES)[::10] == ["other 0.9", "none", "own 0.9"]
