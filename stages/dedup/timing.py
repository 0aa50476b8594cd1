"""What the decision rules of dedup take on the columns of a sample of documents, in this process; the search for duplicates is not timed here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.sampling import Stopwatch, sample
from pipeline.stage import Input, Timing
from stages.dedup import Config
from stages.dedup.judge import column_of
from stages.dedup.rules import columns_of, load


def profile(config: Config, inputs: Mapping[str, Input], sample_bytes: int) -> list[Timing]:
    """Seconds of each rule, and how many documents it condemns taken alone."""
    given = inputs["documents"]
    batches = sample([given.shard_path(shard) for shard in given.shards if shard.rows], "text", sample_bytes)
    watch, plain = Stopwatch(), config.model_dump(mode="json")
    found = dict.fromkeys(config.rules, 0)
    for name, rule in load(config.rules if batches else ()):  # loads models and tables
        rule({column: column_of(batches[0].slice(0, 1), column) for column in columns_of((name,))}, plain.get(name) or {})
    for batch in batches:
        with watch("columns"):
            columns = {name: column_of(batch, name) for name in columns_of(config.rules)}
        for name, rule in load(config.rules):
            with watch(f"rule {name}"):
                masks = [mask for _, mask in rule(columns, plain.get(name) or {})]
            found[name] += int(np.logical_or.reduce(masks).sum()) if masks else 0
    documents = sum(batch.num_rows for batch in batches)
    size = sum(len(text) for batch in batches for text in batch.column("text").cast("binary").to_pylist())
    return watch.timings(documents, size, {f"rule {name}": f"condemned {count}" for name, count in found.items()})
