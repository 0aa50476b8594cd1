"""The peer's side of `tests.benchmarks.corpus`: datatrove on a folder of JSON lines. Runs in the peer's own virtual environment and imports nothing of this project.

gopher    JsonlReader -> GopherRepetitionFilter -> GopherQualityFilter -> JsonlWriter (zstd)        a task a file
minhash   JsonlReader -> MinhashDedupSignature; then MinhashDedupBuckets, MinhashDedupCluster       14 bands of 8 rows over 5-grams, its defaults
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.word_tokenizers import WordTokenizer


class Plain(WordTokenizer):
    """Words are what stands between white space."""

    def __init__(self) -> None:
        super().__init__("plain")

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def _run(steps: list[object], tasks: int, workers: int, logs: Path) -> None:
    LocalPipelineExecutor(pipeline=steps, tasks=tasks, workers=workers, logging_dir=str(logs)).run()


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("gopher", "minhash"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--splitting", choices=("whitespace", "own"), required=True)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    language = Plain() if given.splitting == "whitespace" else "eng"
    tasks = len(list(given.source.glob("*.jsonl")))
    reader = JsonlReader(str(given.source), glob_pattern="*.jsonl")
    if given.part == "gopher":
        steps = [
            reader,
            GopherRepetitionFilter(language=language),
            GopherQualityFilter(language=language, min_stop_words=None),
            JsonlWriter(str(given.target / "kept"), compression="zstd"),
        ]
        _run(steps, tasks, given.workers, given.target / "logs")
        return
    folder = {name: str(given.target / name) for name in ("signatures", "buckets", "clusters")}
    _run([reader, MinhashDedupSignature(folder["signatures"], language=language)], tasks, given.workers, given.target / "logs-1")
    _run([MinhashDedupBuckets(folder["signatures"], folder["buckets"])], 14, given.workers, given.target / "logs-2")
    _run([MinhashDedupCluster(folder["buckets"], folder["clusters"])], 1, 1, given.target / "logs-3")


if __name__ == "__main__":
    main()
