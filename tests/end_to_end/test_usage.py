"""A first try that goes wrong: what is said, where it stands, and the last line that whoever started the command waits for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end import inside, tiny

cli = inside.cli


@pytest.mark.parametrize(
    ("arguments", "announced"), [(["run"], True), (["run", "x.yaml", "--no-such"], True), (["plan"], False), (["run", "--help"], False)]
)
def test_what_is_no_command_ends_with_its_code_too(arguments: list[str], announced: bool, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], cwd=tmp_path, env=tiny.environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == (0 if "--help" in arguments else 2)
    assert done.stdout.endswith("PIPELINE_EXIT=2\n") == announced
    assert done.stdout.count("PIPELINE_EXIT") == announced


def test_of_many_mistakes_the_first_stand_in_the_lines_that_are_kept(tmp_path: Path, cli: inside.Cli) -> None:
    file = tiny.make(tmp_path)
    wrong = [
        f"stages.dedup.{name}=nothing"
        for name in ("partitions", "near", "lines", "rules", "priority", "pairs", "urls", "language", "keep_rejects", "length")
    ]
    done = cli("plan", file, *wrong)
    assert done.code == 2
    kept = done.err.splitlines()[-9:]
    assert kept[0].startswith("error: ") and kept[-1].endswith("more lines, all of them above")
    assert all(f"stages.dedup.{name.split('.')[2].split('=')[0]}" in done.err for name in wrong)


def test_a_pivot_outside_the_languages_is_refused_before_any_work(tmp_path: Path, cli: inside.Cli) -> None:
    file = tiny.make(tmp_path, stages={"ingest": {"pivot": "sw"}})
    for command in ("plan", "run"):
        done = cli(command, file)
        assert done.code == 2 and "stages.ingest.pivot: sw is not among the pipeline's languages" in done.err
    assert not (tmp_path / "storage" / "units").exists()
