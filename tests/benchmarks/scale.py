"""Does cost grow straight with size? The data stages as they are by default, on 1, 4 and 16 times as much text in files of one size.

Straight is: the time apart from start-up is within 20% of 4 and 16 times the first, and the largest worker's memory within 20% of the first and under 1.5 GiB.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

from tests.benchmarks import corpus_text
from tests.benchmarks.contest import Arena, Side

FILE_BYTES = 16_000_000
MEMORY_BOUND = 1.5 * 2**30


def measure(arena: Arena, data: Path, base: int, plot: Path) -> float:
    """Slope of the logarithm of time over that of size (least squares); a table is printed and a plot written."""
    print(f"\nScale: 1, 4 and 16 times {base / 1e6:,.0f} MB; ingest, clean and dedup with every default", flush=True)
    points: list[tuple[float, Side]] = []
    for times in (1, 4, 16):
        files = max(2, 2 * round(base * times / FILE_BYTES / 2))
        corpus = corpus_text.write(data, arena.work / "scale", base * times, files=files, processes=arena.workers)
        side = arena.ours("scale", corpus, {}, own=True, clean={}, card=True)
        points.append((corpus.bytes, side))
        print(f"  {corpus.bytes / 1e6:8,.1f} MB: {side.cost.seconds:.1f} s with a start-up of {side.startup.seconds:.1f} s", flush=True)
        shutil.rmtree(corpus.folder)
    # One start-up for all sizes, the shortest that any of them saw: a second of it is a fifth of the smallest size's time.
    startup = min((side.startup for _, side in points), key=lambda cost: cost.seconds)
    points = [(size, replace(side, startup=startup)) for size, side in points]
    first_size, first = points[0]
    for size, side in points:
        print(
            f"  {size / 1e6:8,.1f} MB {side.seconds:8.1f} s apart from start-up ({startup.seconds:.1f} s): {side.seconds / first.seconds:6.2f} times"
            f" for {size / first_size:6.2f} times the size; largest worker {side.cost.worker_bytes / 2**20:,.0f} MiB, tree {side.cost.peak_bytes / 2**20:,.0f} MiB",
            flush=True,
        )
    exponent = slope([(math.log(size), math.log(side.seconds)) for size, side in points])
    memory = [side.cost.worker_bytes for _, side in points]
    print(
        f"  exponent {exponent:.3f}; memory of the largest worker {max(memory) / memory[0]:.2f} times the first's, at most {max(memory) / 2**20:,.0f} MiB"
        f" ({'under' if max(memory) < MEMORY_BOUND else 'OVER'} 1.5 GiB); plot: {plot}"
    )
    _plot(points, exponent, plot)
    return exponent


def slope(points: list[tuple[float, float]]) -> float:
    """Of the least-squares line."""
    x, y = (sum(point[axis] for point in points) / len(points) for axis in (0, 1))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def _plot(points: list[tuple[float, Side]], exponent: float, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sizes = [size / 1e6 for size, _ in points]
    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.5))
    time.loglog(sizes, [side.seconds for _, side in points], "o-", label=f"measured, exponent {exponent:.2f}")
    time.loglog(sizes, [points[0][1].seconds * size / sizes[0] for size in sizes], "--", color="grey", label="straight")
    time.set(xlabel="MB of JSON lines", ylabel="seconds apart from start-up")
    time.legend()
    memory.semilogx(sizes, [side.cost.worker_bytes / 2**20 for _, side in points], "o-", label="largest worker")
    memory.axhline(MEMORY_BOUND / 2**20, ls="--", color="grey", label="bound")
    memory.set(xlabel="MB of JSON lines", ylabel="peak PSS, MiB", ylim=(0, None))
    memory.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
