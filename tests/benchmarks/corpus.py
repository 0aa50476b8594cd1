"""The corpus engine measured: against datatrove 0.10.1, against itself at other sizes, and against brute force.

    python -m tests.benchmarks.corpus [--size-mb 1024] [--own-mb 100] [--scale-mb 64] [--skew-mb 768] [--only gopher --only minhash …] [--work FOLDER]

Everything it needs it makes: the text (NTREX-128 enlarged, see `corpus_text`), the peer's virtual environment (in `--work`, kept there). Two workers on each side, in
turn. Each part says what it measures: `contest` (gopher, minhash), `precision`, `scale`, `skew`, `identify`. The last line is JSON with the keys

    gopher_ratio_whitespace   the peer's time over ours, apart from start-up: Gopher's rules, words between white space on both sides, --size-mb of text
    gopher_ratio_own          the same with each side's own word splitting, --own-mb of text
    minhash_ratio_whitespace, minhash_ratio_own     the same for MinHash signatures and clustering: documents are read, signed and clustered, on neither side cleaned
    minhash_precision, minhash_recall               of our clusters, against the true Jaccard similarity of all pairs, on --own-mb of text
    scale_exponent            slope of log time over log size at 1, 4, 16 times --scale-mb; 1 is straight
    skew_speedup              speed-up from one worker to two where one file holds half of all bytes, as a share of that of two bare processes
    lid_macro_accuracy, lid_of_bare                 see `identify`

A part that was left out, or given too little text to be told from start-up, is null. Sizes are of the JSON lines. The machine should be quiet.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.benchmarks import corpus_text, precision, scale, skew
from tests.benchmarks.contest import Arena, gopher, minhash
from tests.benchmarks.peer import Peer

KEYS = (
    "gopher_ratio_whitespace", "gopher_ratio_own", "minhash_ratio_whitespace", "minhash_ratio_own", "minhash_precision", "minhash_recall",
    "scale_exponent", "skew_speedup", "lid_macro_accuracy", "lid_of_bare",
)  # fmt: skip
PARTS = ("gopher", "minhash", "scale", "skew", "lid")
WORKERS = 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.corpus")
    parser.add_argument("--size-mb", type=float, default=1024, help="text of the contests with plain splitting")
    parser.add_argument("--own-mb", type=float, default=100, help="text of the contests with each side's own splitting")
    parser.add_argument("--scale-mb", type=float, default=64, help="the smallest of the three sizes of `scale`")
    parser.add_argument("--skew-mb", type=float, default=768, help="text of `skew`")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part to run; may be repeated; default all")
    parser.add_argument("--work", type=Path, default=Path.home() / "xlm-pipeline-benchmarks", help="folder for all that is made")
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("XLM_PIPELINE_TEST_DATA", default)), help="folder of real text")
    return parser.parse_args()


def main() -> None:
    """Run the parts, print their tables, and the figures as the last line."""
    given = _arguments()
    parts = given.only or list(PARTS)
    if not (given.data / "ntrex128").is_dir():
        raise SystemExit(f"no real text at {given.data}: give --data or XLM_PIPELINE_TEST_DATA")
    results: dict[str, float | None] = dict.fromkeys(KEYS)
    work: Path = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    tiny = corpus_text.smallest(given.data, work / "tiny")
    corpora: dict[float, corpus_text.Corpus] = {}

    def corpus(size_mb: float) -> corpus_text.Corpus:
        if size_mb not in corpora:
            started_at_s = time.monotonic()
            folder = work / f"text-{size_mb:g}"
            shutil.rmtree(folder, ignore_errors=True)
            made = corpora[size_mb] = corpus_text.write(given.data, folder, round(size_mb * 1e6), processes=WORKERS)
            print(
                f"wrote {made.bytes / 1e6:,.0f} MB in {len(made.languages)} languages, {made.files} files, in {time.monotonic() - started_at_s:.0f} s",
                flush=True,
            )
        return corpora[size_mb]

    arena = Arena(
        work,
        tiny,
        Peer(work / f"datatrove-{sys.version_info[0]}{sys.version_info[1]}") if {"gopher", "minhash"} & set(parts) else None,
        WORKERS,
    )

    arena.warm()

    def _gopher() -> dict[str, float]:
        own = gopher(arena, corpus(given.own_mb), "own", all_of_ours=True)
        return {"gopher_ratio_own": own, "gopher_ratio_whitespace": gopher(arena, corpus(given.size_mb), "whitespace", all_of_ours=False)}

    def _minhash() -> dict[str, float]:
        found = {"minhash_ratio_own": minhash(arena, corpus(given.own_mb), "own")}
        found["minhash_precision"], found["minhash_recall"], says = precision.measure(arena.storage)
        print(says, flush=True)
        return found | {"minhash_ratio_whitespace": minhash(arena, corpus(given.size_mb), "whitespace")}

    def _scale() -> dict[str, float]:
        return {"scale_exponent": scale.measure(arena, given.data, round(given.scale_mb * 1e6), work / "scale.png")}

    def _skew() -> dict[str, float]:
        return {"skew_speedup": skew.measure(arena, given.data, round(given.skew_mb * 1e6))}

    def _lid() -> dict[str, Any]:
        try:
            module = import_module("tests.benchmarks.identify")
        except ModuleNotFoundError:
            print("\nLanguage identification: tests.benchmarks.identify is not here")
            return {}
        found: dict[str, Any] = module.measure()
        return {name: found[name] for name in ("lid_macro_accuracy", "lid_of_bare")}

    run: dict[str, Callable[[], dict[str, Any]]] = {"gopher": _gopher, "minhash": _minhash, "scale": _scale, "skew": _skew, "lid": _lid}
    for part in parts:
        started_at_s = time.monotonic()
        results |= run[part]()
        print(f"  [{part}: {time.monotonic() - started_at_s:.0f} s]", flush=True)
    for made in corpora.values():
        shutil.rmtree(made.folder)
    for name in ("ours", "start-up"):
        shutil.rmtree(work / name, ignore_errors=True)
    print(json.dumps({name: round(value, 4) if value is not None and math.isfinite(value) else None for name, value in results.items()}))


if __name__ == "__main__":
    main()
