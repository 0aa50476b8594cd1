"""Real text made ready for training by the program itself: `python -m pipeline run … --until pack`, and what it made, opened.

A second call with the same settings does nothing but look.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.storage import Storage
from pipeline.training.packed_rows import PackedRows
from stages.pretrain.rows import packed_rows

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 3600


@dataclass(frozen=True)
class Prepared:
    """What training reads."""

    rows: Mapping[str, Mapping[str, PackedRows]]
    """By split and language."""
    pairs: Mapping[str, Mapping[str, PackedRows]]
    """By split and pair of languages; none where there is no bitext."""
    vocabulary: Path
    vocabulary_size: int

    @property
    def length(self) -> int:
        """Places of a row."""
        return next(iter(self.rows["train"].values())).length


def prepare(folder: Path, settings: Mapping[str, Any]) -> None:
    """Run the data stages of a pipeline file of these settings in `folder`.

    Raises:
        RuntimeError: they failed; with the end of what was printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pipeline.yaml"
    file.write_text(json.dumps({**settings, "storage": "storage"}, indent=1, ensure_ascii=False))
    command = [sys.executable, "-m", "pipeline", "run", str(file), "--until", "pack"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"the data stages failed:\n{(done.stdout + done.stderr)[-3000:]}")


def opened(folder: Path, name: str) -> Prepared:
    """What `prepare` made in `folder` for the pipeline called `name`; ids stay memory-mapped."""
    root = folder / "storage"
    state = json.loads((root / "pipelines" / name / "state.json").read_text())["instances"]
    made = {
        stage: json.loads((root / state[stage]["manifest"]).read_text())["content"]["outputs"] for stage in ("encode", "pack", "vocabulary")
    }
    storage = Storage.at(str(root))
    model = made["vocabulary"]["vocabulary"]["files"]["vocabulary.model"]
    card = made["vocabulary"]["vocabulary"]["files"]["card.json"]
    return Prepared(
        packed_rows(storage, made["pack"]["packing"]["shards"], made["encode"]["tokens"]["shards"]),
        packed_rows(storage, made["pack"]["pair_packing"]["shards"], made["encode"]["pair_tokens"]["shards"]),
        storage.local(model["path"], model["sha256"]),
        int(json.loads(storage.local(card["path"], card["sha256"]).read_text())["size"]),
    )


def aligned_news(data: Path) -> dict[str, Any]:
    """The source `ntrex128`: 1,631 lines of news in 116 languages, aligned by line."""
    return {
        "kind": "text", "path": f"{data}/ntrex128/newstest2019-*.{{lang}}.txt", "line_group": "ntrex", "licence": "CC BY-SA 4.0",
    }  # fmt: skip


def topics(data: Path) -> dict[str, Any]:
    """The source `sib200`: 701 sentences in 189 languages, aligned by their number."""
    return {
        "kind": "csv", "path": f"{data}/sib200/{{lang}}/train.tsv", "delimiter": "\t", "group_column": "index_id", "licence": "Apache-2.0",
    }  # fmt: skip
