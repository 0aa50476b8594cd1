"""How good a model the same wall clock buys, here and with Hugging Face's `Trainer`: masked bits per byte of held-out text, by language.

    python -m tests.benchmarks.quality [--minutes 10] [--seeds 3] [--rates 1e-4 3e-4 1e-3 3e-3] [--work FOLDER] [--data FOLDER]

    text        sib200 (train) and ntrex128, through this program's own data stages: a vocabulary of 64,000, rows of 128 tokens, a twentieth held out
    model       4 × 256, the same shape and first weights on both sides, no dropout: no text is seen often enough to need it
    Hugging Face  the same packed rows in the same order, its own collator (15%, 80/10/10), `Trainer` with AdamW and a linear schedule with warmup; its learning rate is
                the best of the four given, by the same measure, from one run of the full time each
    ours        `pipeline.training` with the optimizer and rate of the top `pipeline.yaml`, Muon at 3e-3, chosen before, and else the defaults of `pretrain`

Each run trains for the minutes given, counted from the first batch, on two cores; a probe of some steps beforehand sets how many steps fit, so that the schedule ends
with the time. Each side runs as two ranks of one thread, which `tests.benchmarks.pretrain` shows to be the faster for both at this shape.

Measure: held-out rows at stored positions (15%, all `<mask>`), −log2 p summed over a language's masked pieces, over the UTF-8 bytes of these pieces; ours and theirs are read by the
same code. A mean over languages of each seed; over the seeds a 95% interval (Student, n − 1 degrees). Finished runs are kept in the work folder and are not run again.

The last line is JSON: bits_per_byte_ratio_mean and bits_per_byte_ratio_smallest10 (ours over theirs, of the means over seeds), intervals_apart, baseline_rate.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.prepared import aligned_news, opened, prepare, topics
from tests.benchmarks.pretrain import DATA, ROOT, accelerate

NAME = "quality"
SIZE = [4, 256, 4, 1024]
GLOBAL_BATCH = 32
RANKS = 2
OUR_OPTIMIZER, OUR_RATE = "muon", 3e-3
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
SMALLEST = 10
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95% quantiles by number of seeds."""


def settings(data: Path) -> dict[str, Any]:
    """The pipeline file of the data stages."""
    return {
        "name": NAME,
        "languages": "flores",
        "stages": {
            "ingest": {"sources": [topics(data), aligned_news(data)]},
            "heldout": {"share": 0.05},
            "vocabulary": {"size": 64_000},
            "pack": {"length": 128},
        },
        "cluster": {"workers": 2},
    }


def run(given: argparse.Namespace, side: str, rate: float, seed: int) -> dict[str, Any]:
    """One training and its measure; from the work folder where it is finished already.

    Raises:
        RuntimeError: a rank failed; with the end of its output.
    """
    folder = given.work / f"{side}-{rate:g}-{seed}-{given.minutes:g}"
    found = folder / "result.json"
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        spec = {
            "side": side, "rate": rate, "seed": seed, "seconds": 60 * given.minutes, "ranks": RANKS, "threads": 1, "port": port, "size": SIZE,
            "global_batch": GLOBAL_BATCH, "optimizer": OUR_OPTIMIZER, "data": str(given.work / "text"), "name": NAME,
        }  # fmt: skip
        (folder / "spec.json").write_text(json.dumps(spec))
        path = os.pathsep.join([str(ROOT), str(given.work / "accelerate")])
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
        ranks = []
        try:
            for rank in range(RANKS):
                command = [sys.executable, "-m", "tests.benchmarks.quality_side", str(folder / "spec.json"), str(rank)]
                with (folder / f"output.{rank}").open("wb") as sink:
                    ranks.append(
                        subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
                    )
            failed = [rank for rank, process in enumerate(ranks) if process.wait(60 * given.minutes + 1800)]
        finally:
            for process in ranks:
                process.kill()
        if failed:
            raise RuntimeError(f"{folder.name}: rank {failed[0]} failed:\n{(folder / f'output.{failed[0]}').read_text()[-3000:]}")
    result: dict[str, Any] = json.loads(found.read_text())
    mean, smallest = figures(result)
    print(
        f"{side:>4}, rate {rate:g}, seed {seed}: {result['steps']:,} steps in {result['trained_s']:.0f} s, {result['tokens']:,} tokens; "
        f"bits per byte {mean:.4f}, of the {SMALLEST} smallest languages {smallest:.4f}",
        flush=True,
    )
    return result


def figures(result: dict[str, Any]) -> tuple[float, float]:
    """Mean bits per byte over the languages, and over the smallest by training tokens."""
    by_lang: dict[str, float] = result["bits_per_byte"]
    smallest = sorted(by_lang, key=lambda lang: (result["sizes"][lang], lang))[:SMALLEST]
    return math.fsum(by_lang.values()) / len(by_lang), math.fsum(by_lang[lang] for lang in smallest) / len(smallest)


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean, and the ends of its 95% interval."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, mean, mean
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)) * STUDENT[len(values)]
    return mean, mean - spread, mean + spread


def main() -> None:
    """Make the text, find the peer's rate, run all seeds of both sides in turn, and print the figures as the last line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.quality")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of each run")
    parser.add_argument("--seeds", type=int, default=3, choices=sorted(STUDENT), help="runs of each side that are compared")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="learning rates that are tried for the peer")
    parser.add_argument(
        "--work", type=Path, default=Path.home() / "xlm-pipeline-benchmarks" / "quality", help="folder for all that is made"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder of real text")
    given = parser.parse_args()
    given.work = given.work.resolve()
    given.work.mkdir(parents=True, exist_ok=True)
    accelerate(given.work)
    prepare(given.work / "text", settings(given.data.resolve()))
    prepared = opened(given.work / "text", NAME)
    rows = {split: sum(len(packed) for packed in by_lang.values()) for split, by_lang in prepared.rows.items()}
    print(f"{len(prepared.rows['train'])} languages, {rows['train']:,} rows to train on, {rows['heldout']:,} held out", flush=True)
    tried = {rate: figures(run(given, "hf", rate, 0))[0] for rate in given.rates}
    best = min(tried, key=lambda rate: tried[rate])
    print("the peer's learning rate: " + ", ".join(f"{rate:g}: {value:.4f}" for rate, value in tried.items()) + f"; taken: {best:g}")
    sides: dict[str, list[tuple[float, float]]] = {"hf": [], "ours": []}
    for seed in range(given.seeds):
        sides["hf"].append(figures(run(given, "hf", best, seed)))
        sides["ours"].append(figures(run(given, "ours", OUR_RATE, seed)))
    ratios, apart = [], True
    for column, called in enumerate(("mean over languages", f"{SMALLEST} smallest")):
        ours, theirs = (interval([pair[column] for pair in sides[side]]) for side in ("ours", "hf"))
        print(f"{called}: ours {ours[0]:.4f} [{ours[1]:.4f}, {ours[2]:.4f}], theirs {theirs[0]:.4f} [{theirs[1]:.4f}, {theirs[2]:.4f}]")
        ratios.append(ours[0] / theirs[0])
        apart = apart and ours[2] < theirs[1]
    print(
        json.dumps(
            {
                "bits_per_byte_ratio_mean": round(ratios[0], 4),
                "bits_per_byte_ratio_smallest10": round(ratios[1], 4),
                "intervals_apart": apart,
                "baseline_rate": best,
            }
        )
    )


if __name__ == "__main__":
    main()
