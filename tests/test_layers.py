"""What may import what, and that looking at a pipeline loads none of the heavy libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("pyarrow", "ray", "mlflow", "torch", "deepspeed", "transformers", "sentencepiece", "matplotlib", "pandas", "numpy", "fsspec")


def loaded(code: str, folder: Path) -> set[str]:
    """Top-level modules in a new process after `code`."""
    program = f"{code}\nimport json, sys\nprint('\\n' + json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


COMMAND = """
import sys
sys.argv[1:] = {arguments!r}
from pipeline.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


def test_the_contracts_of_import_linter_hold() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    if not linter.exists():
        pytest.skip("import-linter is not installed: pip install xlm-pipeline[lint]")
    command = [str(linter), "--config", str(ROOT / ".importlinter"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["dag", "runner", "units", "stage", "manifest", "storage", "config", "lease", "cluster"])
def test_the_engine_is_imported_without_the_heavy_libraries(module: str, tmp_path: Path) -> None:
    found = loaded(f"import pipeline.{module}", tmp_path)
    assert "pipeline" in found
    assert found.isdisjoint(HEAVY)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_declared_without_the_heavy_libraries(name: str, tmp_path: Path) -> None:
    if "def run(" not in (ROOT / STAGES[name].replace(".", "/") / "__init__.py").read_text():
        pytest.skip(f"the stage {name} declares no run")
    found = loaded(f"from stages import STAGES\nfrom pipeline.stage import declaration\ndeclaration({name!r}, STAGES)", tmp_path)
    assert "stages" in found
    assert found.isdisjoint(HEAVY)


def test_the_help_loads_nothing_heavy(tmp_path: Path) -> None:
    found = loaded(COMMAND.format(arguments=["--help"]), tmp_path)
    assert "click" in found
    assert found.isdisjoint(HEAVY)


def test_planning_the_real_stages_loads_nothing_heavy_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_text("One line of text.\n")
    storage = tmp_path / "root"
    source = "{kind: text, path: '{lang}.txt'}"
    (tmp_path / "pipeline.yaml").write_text(f"name: x\nlanguages: [en]\nstorage: {storage}\nstages:\n  ingest: {{sources: [{source}]}}\n")
    before = sorted(tmp_path.rglob("*"))
    program = f"""
import contextlib, io
from pathlib import Path
from pipeline import dag
from stages import STAGES
with contextlib.redirect_stdout(io.StringIO()):
    graph = dag.load(Path("pipeline.yaml"), {_switched_off()!r}, STAGES)
    planned = dag.plan(graph)
assert planned[0].instance.name == "ingest" and planned[0].reasons == ("never run",), planned
"""
    assert loaded(program, tmp_path).isdisjoint(HEAVY)
    assert sorted(tmp_path.rglob("*")) == before


def _switched_off() -> list[str]:
    """Stages that need settings of their own, which this file does not give."""
    return [f"stages.{name}=null" for name in STAGES if name != "ingest"]
