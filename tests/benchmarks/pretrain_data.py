"""Packed rows for the pretraining benchmark: words of real text, hashed to ids, so that any vocabulary size has real frequencies.

aligned text of 128 languages -> words -> id = first ordinary id + hash modulo ordinary ids -> one array -> full rows
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.text.hashing import hash64
from pipeline.text.packing import UNK
from pipeline.training.batches import Feed
from pipeline.training.mixture import Mixture
from pipeline.training.objectives.masked import objective
from pipeline.training.packed_rows import PackedRows

NUM_TOKENS = 400_000


def tokens(data: Path, vocab_size: int) -> npt.NDArray[np.int32]:
    """[N] ids of the words of ntrex128, language after language in the order of their names, without special ids.

    Raises:
        FileNotFoundError: the text is not there.
    """
    ids: list[int] = []
    known: dict[str, int] = {}
    ordinary = vocab_size - 2 - UNK
    files = sorted(path for path in (data / "ntrex128").rglob("*.txt") if path.is_file())
    if not files:
        raise FileNotFoundError(f"{data}/ntrex128: no text there; give --data the folder that holds it")
    per_file = NUM_TOKENS // len(files) + 1
    for path in files:
        words = path.read_text(encoding="utf-8").split()[:per_file]
        for word in words:
            if word not in known:
                known[word] = UNK + 1 + hash64(word, "id") % ordinary
            ids.append(known[word])
    return np.array(ids, np.int32)


def feed(data: Path, *, vocab_size: int, length: int, global_batch: int, seed: int = 7) -> Feed:
    """The feed of both sides: rows of `length` tokens each, none padded."""
    ids = tokens(data, vocab_size)
    per_row = length - 2
    rows = len(ids) // per_row
    packed = PackedRows(
        shards=(ids,),
        row_offsets=np.arange(rows + 1, dtype=np.int64),
        span_shard=np.zeros(rows, np.int32),
        span_start=np.arange(rows, dtype=np.int64) * per_row,
        span_length=np.full(rows, per_row, np.int32),
        length=length,
    )
    mixture = Mixture.by_alpha({"mul": rows}, 1, seed)
    return Feed({"mul": packed}, mixture, objective(), vocab_size, seed, global_batch, trim=True)
