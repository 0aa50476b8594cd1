"""Training compiles no native extension, so that what a process killed while it compiled left behind holds up no later one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAIN = """
import os
from pathlib import Path

import torch.utils.cpp_extension as extension
from pipeline.training.engine import Alone, load_deepspeed
from tests.training.cases import run

load_deepspeed()
from deepspeed.ops.op_builder.all_ops import ALL_OPS

def waits(baton):
    raise AssertionError(f"waits for {baton.lock_file_path}")

extension.FileBaton.wait = waits  # for ever it would be
folder = Path(os.environ["TORCH_EXTENSIONS_DIR"])
assert len(ALL_OPS) > 2 and "deepspeed_shm_comm" in ALL_OPS, sorted(ALL_OPS)
for name in ALL_OPS:  # as torch's builder leaves them when it is killed: it waits for as long as the lock is there
    (folder / name).mkdir()
    (folder / name / "lock").touch()
    assert Path(extension._get_build_directory(name, False)) == folder / name
for zero, offload in ((0, False), (2, False), (3, False), (2, True)):
    assert len(run(Alone(), zero=zero, offload=offload, steps=1)["records"]) == 1, (zero, offload)
"""


@pytest.mark.fault("K12")
def test_locks_that_a_killed_compiler_left_hold_up_no_training(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRAIN], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "TORCH_EXTENSIONS_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"lock"}  # nothing was built
