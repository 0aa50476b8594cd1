"""What the parts of clean take: rules, measures and identification over a sample of the stage's own documents, in this process."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.sampling import Stopwatch, sample
from pipeline.stage import Input, Timing
from stages.clean import Config
from stages.clean.blocklist import Blocklist
from stages.clean.identification import Identification
from stages.clean.work import Cleaner, settings_of


def profile(config: Config, inputs: Mapping[str, Input], sample_bytes: int) -> list[Timing]:
    """Seconds of each part but block lists, which are not read for it."""
    given = inputs["documents"]
    batches = sample([given.shard_path(shard) for shard in given.shards if shard.rows], "text", sample_bytes)
    if not batches:
        return []
    watch = Stopwatch()
    settings = settings_of(config)["documents"]
    first = batches[0].slice(0, 64)
    Cleaner(settings, Blocklist(None, {}), Identification(settings)).columns(
        first, first.column("lang").to_pylist()
    )  # compiles, and loads the models
    cleaner = Cleaner(settings, Blocklist(None, {}), Identification(settings), watch)
    for batch in batches:
        cleaner.columns(batch, batch.column("lang").to_pylist())
    documents = sum(batch.num_rows for batch in batches)
    size = sum(len(text) for batch in batches for text in batch.column("text").cast("binary").to_pylist())
    changed = cleaner.rewriter.changed
    watch.seconds.pop("block lists")
    return watch.timings(documents, size, {f"rule {name}": f"changed {count}" for name, count in changed.items()})
