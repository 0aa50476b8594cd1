"""Pretraining measured against Hugging Face's `Trainer`: the same model, weights, rows, masks and optimizer on both sides, in turn.

    python -m tests.benchmarks.pretrain [--steps 4] [--only base --only base-dropout --only small --only compiled --only losses] [--work FOLDER] [--data FOLDER]

    base           12 × 768, 250,002 words, rows of 512 tokens, 4,096 tokens a step, bfloat16 where the CPU is faster in it, dropout 0
    base-dropout   the same with dropout 0.1
    small          4 × 256, 64,000 words, otherwise the same
    compiled       our side of small with and without torch's compiler, one rank of two threads
    losses         small in float32, 20 steps: largest difference of the two sides' losses

Each side runs as one rank of two threads and as two ranks of one, and its best counts: the median of the steps after the first. The peer cuts its share into
micro-batches of at most 2 rows at base shape, since logits of 250,002 words at every place of more rows do not fit into memory beside the rest.
`accelerate`, which the peer's trainer needs, is put into the work folder.

matmul_share: FLOPs of a step (three times the forward products: layers at every place, the last one's after its attention and the vocabulary at masked places
only, attention; nothing computed twice) over time, over the best 2048³ product in the same format with as many threads, in the same process.

The last line is JSON: ratio_hf_base_shape, ratio_hf_base_shape_dropout, ratio_hf_small, matmul_share, largest_loss_difference, and compile_gain (of tokens/s); null where a part was left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from pipeline.model.flops import training_flops
from pipeline.model.sizes import ModelSize
from pipeline.training.objectives.masked import masked_count
from pipeline.training.precision import resolve_precision

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("XLM_PIPELINE_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
WARM = 1
"""Steps that are not timed."""
TIMEOUT_S = 3600
BASE = {"size": [12, 768, 12, 3072], "vocab": 250_002, "length": 512, "global_batch": 8}
SMALL = {"size": [4, 256, 4, 1024], "vocab": 64_000, "length": 512, "global_batch": 8}
PARTS = ("base", "base-dropout", "small", "compiled", "losses")
CUTS = ((1, 2), (2, 1))
"""(ranks, threads of each)."""


def flops_of_a_step(shape: dict[str, Any]) -> float:
    """Floating-point operations of one step, counted as the module says; all rows are full."""
    rows, length = shape["global_batch"], shape["length"]
    layers, width, heads, inner = shape["size"]
    size = ModelSize(layers, width, heads, inner, length + 2, None)
    predicted = rows * int(masked_count(length, 2))
    return training_flops(size, shape["vocab"], tokens=rows * length, squares=rows * length**2, predicted=predicted)


def side(name: str, shape: dict[str, Any], work: Path, **spec: Any) -> dict[str, Any]:
    """Run one side to its end: its losses, seconds by step, and the rate of the best product.

    Raises:
        RuntimeError: a rank failed; with the end of its output.
    """
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    task = {"port": port, "zero": 0, **shape, **spec}
    (folder / "spec.json").write_text(json.dumps(task))
    path = os.pathsep.join([str(ROOT), str(work / "accelerate")])
    env = os.environ | {"OMP_NUM_THREADS": str(task["threads"]), "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    ranks = []
    try:
        for rank in range(task["ranks"]):
            command = [sys.executable, "-m", "tests.benchmarks.pretrain_side", str(folder / "spec.json"), str(rank)]
            with (folder / f"output.{rank}").open("wb") as sink:
                ranks.append(subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT))
        failed = [rank for rank, process in enumerate(ranks) if process.wait(TIMEOUT_S)]
    finally:
        for process in ranks:
            process.kill()
    if failed:
        raise RuntimeError(f"{name}: rank {failed[0]} failed:\n{(folder / f'output.{failed[0]}').read_text()[-3000:]}")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def contest(name: str, shape: dict[str, Any], given: argparse.Namespace, dropout: float) -> tuple[float, float]:
    """(the peer's time over ours, our share of the best product)."""
    tokens = shape["global_batch"] * shape["length"]
    best: dict[str, float] = {}
    share = 0.0
    for who in ("hf", "ours"):
        for ranks, threads in CUTS:
            mine = shape["global_batch"] // ranks
            micro = min(mine, 2) if who == "hf" and shape is BASE else mine
            spec = {"side": who, "ranks": ranks, "threads": threads, "micro": micro, "dropout": dropout, "steps": given.steps}
            result = side(f"{name}-{who}-{ranks}", shape, given.work, precision=given.precision, data=str(given.data), **spec)
            seconds = statistics.median(result["seconds"][WARM:])
            found = flops_of_a_step(shape) / seconds / (result["product_flops"] * ranks)
            print(
                f"{name}: {who}, {ranks} rank(s) of {threads} thread(s), micro-batch {micro}, {result['precision']}: {seconds:.2f} s a step, "
                f"{tokens / seconds:,.0f} tokens/s, {found:.2f} of the best product",
                flush=True,
            )
            if seconds < best.get(who, float("inf")):
                best[who] = seconds
                share = found if who == "ours" else share
    print(f"{name}: {best['hf'] / best['ours']:.2f} times the library's tokens/s", flush=True)
    return best["hf"] / best["ours"], share


def compile_gain(given: argparse.Namespace) -> float:
    """Our tokens/s with the compiler over those without."""
    spec = {"side": "ours", "ranks": 1, "threads": 2, "micro": 8, "dropout": 0.0, "steps": given.steps, "precision": given.precision}
    seconds = {
        compiled: statistics.median(
            side(f"compiled-{compiled}", SMALL, given.work, compiled=compiled, data=str(given.data), **spec)["seconds"][WARM:]
        )
        for compiled in (False, True)
    }
    print(f"compiled: {seconds[True]:.2f} s a step, {seconds[False]:.2f} s without", flush=True)
    return seconds[False] / seconds[True]


def largest_difference(given: argparse.Namespace) -> float:
    """Of the losses of both sides, relative, float32, 20 steps."""
    spec = {"ranks": 1, "threads": 2, "micro": 8, "dropout": 0.0, "steps": 20, "precision": "fp32", "data": str(given.data)}
    ours, theirs = (side(f"losses-{who}", SMALL, given.work, side=who, **spec)["losses"] for who in ("ours", "hf"))
    found = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    print(f"losses: largest relative difference over 20 steps {found:.1e}", flush=True)
    return found


def accelerate(work: Path) -> None:
    """Put the package that the peer's trainer needs into the work folder, unless it is there."""
    target = work / "accelerate"
    if not target.is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), "accelerate>=1.10,<2"]
        subprocess.run(command, check=True, timeout=600)


def main() -> None:
    """Run the parts, and print the figures as the last line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pretrain")
    parser.add_argument("--steps", type=int, default=4, help="steps of each run, of which the first warms up")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; may be repeated")
    parser.add_argument(
        "--work", type=Path, default=Path.home() / "xlm-pipeline-benchmarks" / "pretrain", help="folder for all that is made"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder of real text")
    given = parser.parse_args()
    given.work = given.work.resolve()
    accelerate(given.work)
    given.precision = resolve_precision("auto", torch.device("cpu"))
    parts = given.only or PARTS
    figures: dict[str, float | None] = dict.fromkeys(
        ("ratio_hf_base_shape", "ratio_hf_base_shape_dropout", "ratio_hf_small", "matmul_share", "largest_loss_difference", "compile_gain")
    )
    if "losses" in parts:
        figures["largest_loss_difference"] = largest_difference(given)
    if "compiled" in parts:
        figures["compile_gain"] = compile_gain(given)
    if "small" in parts:
        figures["ratio_hf_small"], _ = contest("small", SMALL, given, 0.0)
    if "base" in parts:
        figures["ratio_hf_base_shape"], figures["matmul_share"] = contest("base", BASE, given, 0.0)
    if "base-dropout" in parts:
        figures["ratio_hf_base_shape_dropout"], _ = contest("base-dropout", BASE, given, 0.1)
    print(json.dumps({name: None if value is None else float(f"{value:.3g}") for name, value in figures.items()}))


if __name__ == "__main__":
    main()
