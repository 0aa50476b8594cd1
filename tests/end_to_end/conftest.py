"""One undisturbed run for all tests that compare with one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.end_to_end import tiny


@pytest.fixture(scope="session")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny pipeline that ran to `pack` with nothing in its way; look, copy, do not touch."""
    folder = tmp_path_factory.mktemp("control")
    done = tiny.run(tiny.make(folder), "--until", "pack", env=undisturbed(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert tiny.temporary(folder / "storage") == []
    return folder


def undisturbed(folder: Path) -> dict[str, str]:
    """An environment with a home of its own, for fixtures that live longer than a test."""
    assert "PIPELINE_FAILPOINT" not in os.environ
    (folder / "home").mkdir(exist_ok=True)
    return {"HOME": str(folder / "home")}
