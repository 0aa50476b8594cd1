"""The peak memory of a rank that trains, measured: what `tests/training/test_capacity.py` holds the planner to."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Any

from pipeline.model.build import build_masked_lm
from pipeline.model.masked_lm import MaskedLM, masked_lm_loss
from pipeline.model.sizes import ModelSize
from pipeline.training.batches import Feed
from pipeline.training.contract import TrainSettings
from pipeline.training.loop import train
from pipeline.training.mixture import Mixture
from pipeline.training.objectives.masked import MaskedLanguageModel
from pipeline.training.packed_rows import PackedRows
from pipeline.training.phases import Phased


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    return next(int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))


def _rows(count: int, length: int, vocab: int) -> dict[str, PackedRows]:
    import numpy as np

    size = length - 2
    shard = (np.arange(count * size, dtype=np.int64) * 7919 % (vocab - 5) + 4).astype(np.uint32)
    starts = np.arange(count, dtype=np.uint64) * size
    return {"en": PackedRows((shard,), np.arange(count + 1), np.zeros(count, np.uint32), starts, np.full(count, size, np.uint32), length)}


def _run(gang: Any, size: list[int], vocab: int, length: int, micro_batch: int, accumulation: int, steps: int, **settings: Any) -> None:
    shape = ModelSize(*size, length + 2, None)  # type: ignore[arg-type]
    global_batch = micro_batch * accumulation * gang.world_size
    rows = _rows(global_batch * steps, length, vocab)
    own = Feed(rows, Mixture.by_alpha({"en": len(rows["en"])}, 1, 0), MaskedLanguageModel(), vocab, 0, global_batch)
    feed = Phased((own,), (0,), ("mlm",))
    dropout = settings.pop("dropout")
    module = MaskedLM(build_masked_lm(shape, vocab, seed=0, dropout=dropout, max_length=length))
    given = TrainSettings(steps=steps, micro_batch=micro_batch, learning_rate=1e-4, **settings)
    train(given, module, feed, masked_lm_loss, gang, resume_from=None, save=lambda *_: None, watch=lambda _: None, evaluate=None)


def measured(gang: Any, **job: Any) -> dict[str, int]:
    """Bytes that stood before the model was built, and the most beyond them until three steps were made."""
    small = job | {"size": [2, 64, 2, 256], "vocab": 300, "length": 16, "micro_batch": 1}
    _run(gang, **small, steps=2)  # libraries and compiled code are loaded
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    _run(gang, **job, steps=3)
    return {"before": before, "peak": _status("VmHWM") - before}
