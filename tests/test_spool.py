"""Records are handed on once, whatever is written twice or cannot be read for a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pipeline.curve import Curve
from pipeline.spool import SpoolReader
from pipeline.storage import Storage
from pipeline.tracking import MetricRow, Run, Tracking

RUN = Run("key", "pretrain", "x")


class Book:
    """Stands where a Tracking would, and notes what it is given."""

    def __init__(self) -> None:
        self.rows: list[MetricRow] = []

    def log_metrics(self, run: Run, rows: list[MetricRow]) -> None:
        assert run is RUN
        self.rows += rows

    def figures(self) -> list[tuple[str, int, float]]:
        return [(name, step, value) for name, value, step, _ in self.rows]


def pump(reader: SpoolReader, book: Book) -> int:
    return reader.pump(cast(Tracking, book), RUN)


def test_every_figure_is_handed_on_once_and_in_order(tmp_path: Path) -> None:
    curve = Curve(Storage.at(str(tmp_path)), "work/spool")
    reader, book = SpoolReader(curve), Book()
    assert pump(reader, book) == 0
    curve.append([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "heldout/loss": 2.5}])
    assert pump(reader, book) == 3
    assert pump(reader, book) == 0
    curve.append([{"step": 3, "loss": 1.0}])
    curve.append([{"step": 4, "loss": 0.5}])
    assert pump(reader, book) == 2
    losses = [figure for figure in book.figures() if figure[0] == "loss"]
    assert losses == [("loss", 1, 3.0), ("loss", 2, 2.0), ("loss", 3, 1.0), ("loss", 4, 0.5)]
    assert [figure for figure in book.figures() if figure not in losses] == [("heldout/loss", 2, 2.5)]


def test_steps_that_a_resumed_training_writes_again_are_passed_over(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    reader, book = SpoolReader(Curve(storage, "s")), Book()
    Curve(storage, "s").append([{"step": step, "loss": float(step)} for step in (1, 2, 3)])
    pump(reader, book)
    Curve(storage, "s").append([{"step": step, "loss": float(step)} for step in (2, 3, 4)])
    pump(reader, book)
    assert book.figures() == [("loss", step, float(step)) for step in (1, 2, 3, 4)]


def test_a_storage_that_fails_for_a_while_loses_nothing(tmp_path: Path) -> None:
    curve = Curve(Storage.at(str(tmp_path)), "s")

    class Flaky:
        is_down = True

        def read(self, after: int = 0) -> tuple[list[dict[str, Any]], int]:
            if self.is_down:
                raise OSError("throttled")
            return curve.read(after)

    chunks, book = Flaky(), Book()
    reader = SpoolReader(chunks)
    curve.append([{"step": 1, "loss": 1.0}])
    assert pump(reader, book) == 0
    chunks.is_down = False
    assert pump(reader, book) == 1
    assert book.figures() == [("loss", 1, 1.0)]
