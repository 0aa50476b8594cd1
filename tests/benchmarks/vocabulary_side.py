"""What runs in processes of its own for `vocabulary`: sentencepiece's training on raw text, and the bare parts of ours.

    python -m tests.benchmarks.vocabulary_side raw TEXT MODEL SIZE        sentencepiece, two threads, the options that our vocabularies have
    python -m tests.benchmarks.vocabulary_side parts TEXT SIZE            counting on one core, then training; prints a line of JSON

TEXT is a file of lines, one document's line each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

AT_ONCE = 4 << 20
"""Characters of text that are handed on at once."""
MAX_LINE_BYTES = 1 << 20


def raw(text: Path, model: Path, size: int) -> None:
    """Train on the raw text and write the model."""
    import sentencepiece

    with model.open("wb") as sink:
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_writer=sink, model_type="bpe", vocab_size=size - 1, normalization_rule_name="identity", remove_extra_whitespaces=False,
            input_sentence_size=0, max_sentence_length=MAX_LINE_BYTES, byte_fallback=True, character_coverage=0.9995, split_digits=True, num_threads=2,
            bos_id=0, pad_id=1, eos_id=2, unk_id=3, minloglevel=2,
        )  # fmt: skip


def parts(text: Path, size: int) -> dict[str, Any]:
    """Seconds of counting and of training, words and distinct ones."""
    import pyarrow as pa

    from pipeline.text.tokenizer import train_words
    from stages.vocabulary.counts import WordCounter

    for lines in (["warm up"], None):  # compiled code is loaded first
        started_at_s = time.process_time()
        counter = WordCounter()
        for batch in [lines] if lines else _batches(text):
            counter.add(pa.array(batch, pa.large_string()), ["x"] * len(batch))
        table = counter.table()
        counted_s = time.process_time() - started_at_s
    words, counts = table["word"].combine_chunks(), table["count"].to_numpy()
    train_words(lambda: [(pa.array(["▁aabb", "▁ab"], pa.large_string()), counts[:2] * 0 + 1)], size=266)
    started_at_s = time.process_time()
    train_words(lambda: [(words, counts)], size=size, split_digits=True)
    return {"count_s": counted_s, "train_s": time.process_time() - started_at_s, "words": int(counts.sum()), "distinct": len(words)}


def _batches(text: Path) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    with text.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            batch.append(line[:-1])
            held += len(line)
            if held >= AT_ONCE:
                yield batch
                batch, held = [], 0
    if batch:
        yield batch


if __name__ == "__main__":
    if sys.argv[1] == "raw":
        raw(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        print(json.dumps(parts(Path(sys.argv[2]), int(sys.argv[3]))))
