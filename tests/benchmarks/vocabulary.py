"""The vocabulary measured against sentencepiece's own training on the raw text, and its cost against the size of the corpus.

    python -m tests.benchmarks.vocabulary [--size-mb 1024] [--vocabulary 64000] [--curve-mb 16] [--only contest --only curve] [--work FOLDER]

Text: NTREX-128 enlarged (see `corpus_text`), over 100 languages. Contest: `pipeline run` of the one stage (its card included), α = 1, two workers, on
kept documents that lie in storage, its time by phase, and apart from it what the same command takes on a few documents (start of Python, Ray and MLflow); then
sentencepiece on the same lines in a file, the same options, two threads. Each side's peak is the PSS of all its processes.
Pieces of spaced scripts are compared one by one and in order, those of unspaced scripts by the length of encoded text. Curve: bare counting and bare training in one
process at 1, 2, 4, 8 and 16 times --curve-mb, in seconds of the processor; a plot in `--work`. The last line is JSON with the keys

    time_ratio_raw      our time of counting (count, merge) and training, apart from start-up, over that of raw training
    memory_ratio_raw    the same of the peak memory
    pieces_agree        share of our pieces of spaced scripts that are pieces there
    unspaced_length     tokens of text in unspaced scripts, ours over theirs
    count_exponent      slope of log time of counting over log size of the corpus; 1 is straight
    train_exponent      slope of log time of training over log number of distinct words

A part that was left out is null.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import sentencepiece

from pipeline.text.characters import UNSPACED
from tests.benchmarks import corpus_text, engine
from tests.benchmarks.measured import Cost, run
from tests.benchmarks.scale import slope

KEYS = ("time_ratio_raw", "memory_ratio_raw", "pieces_agree", "unspaced_length", "count_exponent", "train_exponent")
ALL_KEPT: dict[str, Any] = {"rules": [], "near": None, "lines": None, "urls": False}
FIRST = 260
"""Ids of specials and bytes, alike on both sides."""
SAMPLE_LINES = 20_000
_UNSPACED = re.compile(f"[{UNSPACED}]")


def main() -> None:
    """Run the parts, print their tables, and the figures as the last line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.vocabulary")
    parser.add_argument("--size-mb", type=float, default=1024, help="text of the contest")
    parser.add_argument("--vocabulary", type=int, default=64_000, help="pieces")
    parser.add_argument("--curve-mb", type=float, default=16, help="the smallest of the five sizes of the curve")
    parser.add_argument("--only", action="append", choices=("contest", "curve"), help="a part to run; may be repeated; default both")
    parser.add_argument("--work", type=Path, default=Path.home() / "xlm-pipeline-benchmarks", help="folder for all that is made")
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("XLM_PIPELINE_TEST_DATA", default)), help="folder of real text")
    given = parser.parse_args()
    if not (given.data / "ntrex128").is_dir():
        raise SystemExit(f"no real text at {given.data}: give --data or XLM_PIPELINE_TEST_DATA")
    work: Path = (given.work / "vocabulary").resolve()
    work.mkdir(parents=True, exist_ok=True)
    results: dict[str, float | None] = dict.fromkeys(KEYS)
    if "contest" in (given.only or ["contest"]):
        results |= contest(given.data, work, round(given.size_mb * 1e6), given.vocabulary)
    if "curve" in (given.only or ["curve"]):
        results |= curve(given.data, work, round(given.curve_mb * 1e6), given.vocabulary)
    print(json.dumps({name: None if value is None else round(value, 4) for name, value in results.items()}))


def _side(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.vocabulary_side", *map(str, arguments)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(engine.ROOT), "NO_COLOR": "1"}


def contest(data: Path, work: Path, size: int, vocabulary: int) -> dict[str, float]:
    """Both sides on the same lines."""
    tiny = corpus_text.write(data, work / "tiny", 60_000, files=2)
    startups = [_ours(tiny, work, 1_000) for _ in range(2)]
    started_s, startup_s = min(cost.seconds for cost, _, _ in startups), min(trained_s for _, trained_s, _ in startups)
    made = corpus_text.write(data, work / "text", size)
    ours, trained_s, storage = _ours(made, work, vocabulary)
    lines = work / "raw.txt"
    with lines.open("w", encoding="utf-8", newline="\n") as sink:
        sink.writelines(f"{line}\n" for line in _lines(storage))
    print(
        f"Contest: {lines.stat().st_size / 1e6:,.0f} MB of text in {len(made.languages)} languages, {vocabulary:,} pieces, alpha 1",
        flush=True,
    )
    _row("this engine, 2 workers", ours)
    print(
        f"    of which counting and training {trained_s:.1f} s, the rest is the card; on two files of a few documents: {started_s:.1f} s, {startup_s:.1f} s",
        flush=True,
    )
    model = work / "raw.model"
    theirs = run(_side("raw", lines, model, vocabulary), env=_environment(), folder=work, log=work / "raw.log")
    _row(f"sentencepiece {sentencepiece.__version__}, 2 threads", theirs)
    found = compared(engine.manifest(storage, "vocabulary"), storage, model, lines)
    apart, whole = (trained_s - startup_s) / theirs.seconds, (ours.seconds - started_s) / theirs.seconds
    ratios = {"time_ratio_raw": apart, "memory_ratio_raw": ours.peak_bytes / theirs.peak_bytes}
    print(
        f"  of raw training's: time {apart:.3f}, with the card {whole:.3f}, both apart from start-up; with all {ours.seconds / theirs.seconds:.3f}; "
        f"memory {ratios['memory_ratio_raw']:.3f}",
        flush=True,
    )
    shutil.rmtree(made.folder)
    shutil.rmtree(storage)
    lines.unlink()
    return ratios | found


def _ours(made: corpus_text.Corpus, work: Path, vocabulary: int) -> tuple[Cost, float, Path]:
    """What the one stage takes on the corpus, the seconds of its counting and training, and the storage that holds its output; all before it is done and not counted."""
    storage = engine.fresh(work / "ours")
    settings = engine.settings(
        made.pattern, made.languages, storage, ALL_KEPT, clean=engine.PLAIN, own=True, kept=False, card=False, workers=2
    )
    settings["stages"]["vocabulary"] = {"size": vocabulary, "alpha": 1, "language_coverage": 0, "bitext": False, "coverage": 0.9995}
    engine.pipeline(work, settings, None, "--until", "dedup")
    cost = engine.pipeline(work, settings, None, "--until", "vocabulary")
    phases = engine.manifest(storage, "vocabulary")["record"]["phases"]
    return cost, sum(phases[name] for name in ("count", "merge", "train")), storage


def _row(name: str, cost: Cost) -> None:
    print(f"  {name:28s} {cost.seconds:8.1f} s, peak {cost.peak_bytes / 2**20:8,.0f} MiB (PSS of all processes)", flush=True)


def _lines(storage: Path) -> Iterator[str]:
    """The lines of all kept documents."""
    from pipeline.tables import read_table

    for text, made in zip(engine.shards(storage, "clean", "documents"), engine.shards(storage, "dedup", "decisions"), strict=True):
        keep = read_table(made, ("keep",))["keep"].to_pylist()
        for kept, document in zip(keep, read_table(text, ("text",))["text"].to_pylist(), strict=True):
            if kept:
                yield from filter(None, document.split("\n"))


def compared(manifest: dict[str, Any], storage: Path, raw: Path, lines: Path) -> dict[str, float]:
    """Agreement of the pieces, and of the encoded length of unspaced text; every difference is accounted for in print."""
    path = storage / manifest["content"]["outputs"]["vocabulary"]["files"]["vocabulary.model"]["path"]
    ours, theirs = (sentencepiece.SentencePieceProcessor(model_file=str(file)) for file in (path, raw))
    pieces = [[model.id_to_piece(index) for index in range(FIRST, len(model))] for model in (ours, theirs)]
    spaced = [[piece for piece in every if not _UNSPACED.search(piece)] for every in pieces]
    agree = len(set(spaced[0]) & set(spaced[1])) / len(spaced[0])
    print(f"  pieces of spaced scripts: {len(spaced[0]):,} here, {len(spaced[1]):,} there, {agree:.5f} of ours are there")
    merges = [[piece for piece in every if len(piece) > 1] for every in spaced]
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*merges, strict=False)))
    print(f"    the first {same:,} merges are the same in the same order, of {len(merges[0]):,} here and {len(merges[1]):,} there")
    for name, own, other in (("here", 0, 1), ("there", 1, 0)):
        alone = [piece for piece in spaced[own] if piece not in set(spaced[other])]
        beyond = set(merges[own][min(map(len, merges)) :])
        last = [piece for piece in alone if piece in beyond]
        rest = [piece for piece in alone if piece not in set(last)]
        print(
            f"    {name} alone: {len(alone):,}, of which {len(last):,} are the last merges, in places that unspaced scripts take on the other side"
            + (f"; others: {' '.join(rest[:20])}" if rest else "")
        )
    with lines.open(encoding="utf-8") as source:
        sample = [line[:-1] for line in source if _UNSPACED.search(line)][:: max(1, int(lines.stat().st_size / 2e9 * SAMPLE_LINES / 1000))][
            :SAMPLE_LINES
        ]
    length = sum(map(len, ours.encode(sample))) / sum(map(len, theirs.encode(sample)))
    different = len(set(pieces[0]) - set(spaced[0])), len(set(pieces[1]) - set(spaced[1]))
    print(
        f"  pieces of unspaced scripts: {different[0]:,} here, {different[1]:,} there; {len(sample):,} lines with such letters take {length:.4f} times the tokens"
    )
    return {"pieces_agree": agree, "unspaced_length": length}


def curve(data: Path, work: Path, base: int, vocabulary: int) -> dict[str, float]:
    """Bare counting and training at 1 to 16 times the size."""
    print(f"Cost against size: 1 to 16 times {base / 1e6:,.0f} MB, one process, seconds of the processor", flush=True)
    points: list[tuple[float, dict[str, Any]]] = []
    for times in (1, 2, 4, 8, 16):
        made = corpus_text.write(data, work / "curve", base * times)
        lines = work / "curve.txt"
        with lines.open("w", encoding="utf-8", newline="\n") as sink:
            for path in sorted(made.folder.glob("*.jsonl")):
                with path.open(encoding="utf-8") as records:
                    sink.writelines(f"{json.loads(record)['text']}\n" for record in records)
        cost = run(_side("parts", lines, vocabulary), env=_environment(), folder=work, log=work / "curve.log")
        found = json.loads(cost.output.splitlines()[-1])
        size = lines.stat().st_size
        points.append((size, found))
        print(
            f"  {size / 1e6:8,.1f} MB: counting {found['count_s']:7.2f} s, {size / 1e6 / found['count_s']:6.1f} MB/s; {found['distinct']:11,} distinct words,"
            f" training {found['train_s']:7.2f} s, {found['train_s'] / found['distinct'] * 1e6:5.2f} µs a word; peak {cost.peak_bytes / 2**20:,.0f} MiB",
            flush=True,
        )
        shutil.rmtree(made.folder)
        lines.unlink()
    exponents = {
        "count_exponent": slope([(math.log(size), math.log(found["count_s"])) for size, found in points]),
        "train_exponent": slope([(math.log(found["distinct"]), math.log(found["train_s"])) for _, found in points]),
    }
    _plot(points, exponents, work / "curve.png")
    print(
        f"  exponents: counting {exponents['count_exponent']:.3f} over size, training {exponents['train_exponent']:.3f} over distinct words; plot: {work / 'curve.png'}"
    )
    return exponents


def _plot(points: list[tuple[float, dict[str, Any]]], exponents: dict[str, float], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    for axis, x, name, label in (
        (left, [size / 1e6 for size, _ in points], "count", "MB of text"),
        (right, [found["distinct"] / 1e6 for _, found in points], "train", "million distinct words"),
    ):
        seconds = [found[f"{name}_s"] for _, found in points]
        axis.loglog(x, seconds, "o-", label=f"measured, exponent {exponents[f'{name}_exponent']:.2f}")
        axis.loglog(x, [seconds[0] * value / x[0] for value in x], "--", color="grey", label="straight")
        axis.set(xlabel=label, ylabel=f"{'counting' if name == 'count' else 'training'}, seconds")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
