"""The only door to matplotlib: plots as SVG files, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_RC = {"svg.hashsalt": "xlm-pipeline", "font.size": 8, "svg.fonttype": "path", "axes.spines.top": False, "axes.spines.right": False}


PANEL = 70
"""Most names in one panel of a heat map."""


def _figure(width: float, height: float, rows: int = 1) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams.update(_RC)
    figure, axes = pyplot.subplots(rows, figsize=(width, height), layout="constrained")
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def bars(
    values: Mapping[str, float], path: Path, *, title: str, ylabel: str, stacked: Mapping[str, Mapping[str, float]] | None = None
) -> None:
    """One bar a name, highest first; `stacked` gives for each layer its own values by name instead of `values` alone."""
    names = sorted(values, key=lambda name: (-values[name], name))
    figure, axes = _figure(max(5.0, 0.11 * len(names) + 2), 2.8)
    if stacked is None:
        axes.bar(names, [values[name] for name in names], color="#4c78a8")
    else:
        base = [0.0] * len(names)
        for layer, by_name in stacked.items():
            heights = [by_name.get(name, 0.0) for name in names]
            axes.bar(names, heights, bottom=base, label=layer)
            base = [a + b for a, b in zip(base, heights, strict=True)]
        axes.legend(fontsize=7, ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes.set_title(title, loc="left")
    axes.set_ylabel(ylabel)
    axes.tick_params(axis="x", rotation=90, labelsize=6)
    axes.margins(x=0.01)
    _save(figure, path)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: Path,
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    lines: Mapping[str, float] | None = None,
) -> None:
    """Curves of (x, y) by name, with horizontal `lines` for baselines."""
    figure, axes = _figure(6.5, 3.0)
    for name, (x, y) in series.items():
        axes.plot(x, y, label=name, linewidth=1.2, marker="." if len(x) < 30 else None)
    for number, (name, value) in enumerate((lines or {}).items()):
        axes.axhline(value, linestyle="--", linewidth=0.9, color=f"C{number + len(series)}", label=name)
    axes.set_title(title, loc="left")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if len(series) + len(lines or {}) > 1:
        axes.legend(fontsize=7)
    _save(figure, path)


def intervals(
    rows: Mapping[str, tuple[float, float, float]], path: Path, *, title: str, xlabel: str, lines: Mapping[str, float] | None = None
) -> None:
    """Points with intervals (value, low, high) by name, highest first, with vertical `lines` for baselines."""
    names = sorted(rows, key=lambda name: (rows[name][0], name))
    figure, axes = _figure(6.5, max(2.5, 0.11 * len(names) + 1))
    x = [rows[name][0] for name in names]
    low = [max(0.0, rows[name][0] - rows[name][1]) for name in names]
    high = [max(0.0, rows[name][2] - rows[name][0]) for name in names]
    axes.errorbar(x, range(len(names)), xerr=[low, high], fmt=".", linewidth=0.8, color="#4c78a8")
    for number, (name, value) in enumerate((lines or {}).items()):
        axes.axvline(value, linestyle="--", linewidth=0.9, color=f"C{number + 1}", label=name)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_title(title, loc="left")
    axes.set_xlabel(xlabel)
    axes.margins(y=0.01)
    if lines:
        axes.legend(fontsize=7)
    _save(figure, path)


def points(series: Mapping[str, Mapping[str, float]], path: Path, *, title: str, xlabel: str) -> None:
    """A row a name, the highest of the first series on top, with a point of each series and a line that joins them."""
    first = next(iter(series.values()))
    names = sorted(first, key=lambda name: (first[name], name))
    figure, axes = _figure(6.5, max(2.5, 0.11 * len(names) + 1))
    for row, name in enumerate(names):
        own = [values[name] for values in series.values() if name in values]
        axes.plot([min(own), max(own)], [row, row], color="#cccccc", linewidth=0.8, zorder=1)
    for number, (label, values) in enumerate(series.items()):
        met = [(values[name], row) for row, name in enumerate(names) if name in values]
        axes.scatter([x for x, _ in met], [row for _, row in met], s=8, color=f"C{number}", label=label, zorder=2)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_title(title, loc="left")
    axes.set_xlabel(xlabel)
    axes.legend(fontsize=7, ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)
    _save(figure, path)


def heatmaps(
    columns: Mapping[str, Sequence[float]],
    labels: Sequence[str],
    path: Path,
    *,
    title: str,
    ylabel: str,
    colour: str,
    rule: float | None = None,
) -> None:
    """Shares from 0 to 1 as colours, small ones made visible: one column a name, the first label lowest, in panels of equal width; `rule` draws a line
    between two labels."""
    import numpy as np
    from matplotlib.colors import PowerNorm

    names = list(columns)
    number = -(-len(names) // PANEL)
    width = -(-len(names) // number)
    most = max((value for shares in columns.values() for value in shares), default=0.0) or 1.0
    figure, axes = _figure(max(4.5, 1.6 + 0.14 * width), 0.6 + (0.5 + 0.115 * len(labels)) * number, rows=number)
    for index, axis in enumerate(np.atleast_1d(axes)):
        panel = names[index * width : (index + 1) * width]
        shares = np.full((len(labels), width), np.nan)
        shares[:, : len(panel)] = np.array([columns[name] for name in panel]).T
        drawn = axis.imshow(shares, origin="lower", aspect="auto", cmap="Blues", norm=PowerNorm(0.5, 0, most), interpolation="none")
        axis.set_xticks(range(len(panel)), panel, rotation=90, fontsize=6)
        axis.set_yticks(range(len(labels)), labels, fontsize=6)
        axis.tick_params(length=0)
        if rule is not None:
            axis.axhline(rule, color="#d9822b", linewidth=0.8)
    first = np.atleast_1d(axes)[0]
    first.set_title(title, loc="left")
    first.set_ylabel(ylabel)
    figure.colorbar(drawn, ax=axes, label=colour, pad=0.01, fraction=0.03, aspect=30)
    _save(figure, path)
