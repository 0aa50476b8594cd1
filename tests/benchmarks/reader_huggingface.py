"""The peer's side of `tests.benchmarks.reader`: `datasets` and `DataCollatorForLanguageModeling`. Runs in an environment of its own and imports nothing of this project.

rows.arrow (mapped) -> shuffled -> DataLoader (no worker processes) -> the collator: padding, 15% masked 80/10/10, tensors

Arguments: rows, tokenizer folder, rows a micro-batch, seconds a round. Answers each line on its input with one round for each format as JSON: tokens a second of the clock
and of the processor, padding not counted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, DataCollatorForLanguageModeling


def _batches(rows: Dataset, collate: Any, micro_batch: int) -> Iterator[dict[str, torch.Tensor]]:
    while True:
        yield from DataLoader(rows, batch_size=micro_batch, collate_fn=collate, num_workers=0, drop_last=True)


def _round(source: Iterator[dict[str, torch.Tensor]], round_s: float) -> tuple[float, float]:
    taken, started_at_s, started_cpu_s = [], time.perf_counter(), time.process_time()
    while time.perf_counter() - started_at_s < round_s:
        taken.append(next(source)["attention_mask"])
    seconds, cpu_s = time.perf_counter() - started_at_s, time.process_time() - started_cpu_s
    tokens = sum(int(mask.sum()) for mask in taken)
    return tokens / seconds, tokens / cpu_s


def main() -> None:
    """Answer until the input ends."""
    path, tokenizer, micro_batch, round_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    torch.set_num_threads(1)
    rows = Dataset.from_file(path).shuffle(seed=1)
    collate = DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(tokenizer, local_files_only=True), mlm_probability=0.15)
    sources = {
        "python": _batches(rows, collate, micro_batch),
        "torch": _batches(rows.with_format("torch"), collate, micro_batch),
    }
    for _ in sys.stdin:
        print(json.dumps({name: _round(source, round_s) for name, source in sources.items()}), flush=True)


if __name__ == "__main__":
    main()
