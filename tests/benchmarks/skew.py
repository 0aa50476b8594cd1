"""Does one large file leave a worker idle? Half of all bytes in one uncompressed file, the other half in eight: one worker, then two.

The bar is the machine's own: the same rule code (normalise, measure, Gopher's rules) over the same texts in one bare process, then halved over two.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from pathlib import Path

from tests.benchmarks import corpus_text, engine
from tests.benchmarks.contest import Arena

READY_S = 300.0
"""Seconds after which a bare process that is not ready has failed."""


def measure(arena: Arena, data: Path, size: int) -> float:
    """The engine's speed-up from one worker to two, as a share of that of two bare processes."""
    folder = arena.work / "skew"
    shutil.rmtree(folder, ignore_errors=True)
    corpus = corpus_text.write(data, folder, size, files=16, processes=arena.workers)
    parts = sorted(folder.glob("*.jsonl"))
    with (folder / "one.jsonl").open("wb") as sink:
        for part in parts[:8]:
            sink.write(part.read_bytes())
            part.unlink()
    print(f"\nSkew: {corpus.bytes / 1e6:,.0f} MB, half of it in one file; Gopher's rules", flush=True)
    sides = {workers: arena.ours("skew", corpus, engine.GOPHER, own=True, kept=True, workers=workers) for workers in (1, 2)}
    texts = [folder / "one.jsonl", *parts[8:]]
    bare = {processes: _bare(texts, processes) for processes in (1, 2)}
    engine_gain, bare_gain = sides[1].seconds / sides[2].seconds, bare[1] / bare[2]
    print(f"  engine: {sides[1].seconds:.1f} s with one worker, {sides[2].seconds:.1f} s with two: {engine_gain:.2f} times as fast")
    print(
        f"  bare:   {bare[1]:.1f} s in one process, {bare[2]:.1f} s in two: {bare_gain:.2f} times; share {engine_gain / bare_gain:.3f}",
        flush=True,
    )
    shutil.rmtree(folder)
    return engine_gain / bare_gain


def _bare(paths: list[Path], processes: int) -> float:
    """Seconds that so many processes take for the rules over equal parts of all texts, counted from the moment at which all are ready."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(processes + 1), context.Barrier(processes + 1)
    work = [
        context.Process(target=_rules, args=([str(path) for path in paths], number, processes, ready, go), daemon=True)
        for number in range(processes)
    ]
    for process in work:
        process.start()
    ready.wait(READY_S)
    started_at_s = time.monotonic()
    go.wait(READY_S)
    for process in work:
        process.join()
    if any(process.exitcode for process in work):
        raise RuntimeError("a bare process failed")
    return time.monotonic() - started_at_s


def _rules(paths: list[str], number: int, of: int, ready: object, go: object) -> None:
    import numpy as np
    import pyarrow as pa

    from pipeline.tables import utf8
    from pipeline.text.measures import Measurer
    from stages.clean.rewrite import Rewriter
    from stages.dedup import Config
    from stages.dedup.rules import columns_of, load

    rows = [json.loads(line) for path in paths for line in Path(path).read_bytes().splitlines()]
    rows = rows[number::of]
    names = ("repetition", "gopher")
    settings = Config.model_validate_json(json.dumps(engine.GOPHER)).model_dump(mode="json")
    rewriter = Rewriter(("normalise",))
    measurer = Measurer({})
    measurer.measure(*utf8(pa.array(["warm"], pa.large_string())), ["en"])
    rewriter.rewrite(pa.array(["warm"]), ["en"])
    ready.wait(READY_S)  # type: ignore[attr-defined]
    go.wait(READY_S)  # type: ignore[attr-defined]
    for first in range(0, len(rows), 4096):
        batch = rows[first : first + 4096]
        langs = [row["lang"] for row in batch]
        texts = rewriter.rewrite(pa.array([row["text"] for row in batch], pa.large_string()), langs)
        columns = {**measurer.measure(*utf8(texts), langs), "lang": np.array(langs, dtype=object)}
        wanted = {name: columns[name] for name in columns_of(names)}
        for name, rule in load(names):
            for _, mask in rule(wanted, settings[name]):
                mask.sum()
