"""Undisturbed runs for all tests that compare with one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end import alone, repeats, tiny


@pytest.fixture(scope="session")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny pipeline that ran to `pack` with nothing in its way; look, copy, do not touch."""
    folder = tmp_path_factory.mktemp("control")
    done = tiny.run(tiny.make(folder), "--until", "pack", env=undisturbed(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert tiny.temporary(folder / "storage") == []
    return folder


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[alone.Drivers]:
    """Runs without Ray."""
    with alone.Drivers(undisturbed(tmp_path_factory.mktemp("drivers"))) as found:
        yield found


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, drivers: alone.Drivers) -> Path:
    """The folder of a run on the corpus of `repeats`, to `dedup`, with nothing in its way; look, copy, do not touch."""
    folder = tmp_path_factory.mktemp("whole")
    done = drivers.run(repeats.make(folder), "--until", "dedup")
    assert done.code == 0, done.text
    return folder


def undisturbed(folder: Path) -> dict[str, str]:
    """An environment with a home of its own, for fixtures that live longer than a test."""
    assert "PIPELINE_FAILPOINT" not in os.environ
    (folder / "home").mkdir(exist_ok=True)
    return {"HOME": str(folder / "home")}
