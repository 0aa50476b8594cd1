from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.training.harness import run_gang


@dataclass(frozen=True)
class TwoRanks:
    """What `cases.suite` gave on each rank, and where its checkpoints are."""

    rank_0: dict[str, Any]
    rank_1: dict[str, Any]
    folder: Path


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    folder = tmp_path_factory.mktemp("two-ranks")
    rank_0, rank_1 = run_gang("tests.training.cases:suite", 2, {"folder": str(folder / "checkpoints")}, folder / "gang")
    return TwoRanks(rank_0, rank_1, folder / "checkpoints")


@pytest.fixture(autouse=True)
def compute(one_thread: None) -> None:
    """These tests compute on one thread."""
