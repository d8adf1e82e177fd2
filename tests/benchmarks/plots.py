"""Ratios against their targets, as a picture."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.targets import TARGETS

_MET, _MISSED, _GRID = "#2f7d5b", "#c0562f", "#d9d9d9"


def draw(report: Mapping[str, Any], directory: Path) -> list[str]:
    """Draw the ratios that have a target; return the names of the files.

    Where matplotlib is not installed there are no pictures: the page has every figure.
    """
    names = [name for name in TARGETS if name in report["spread"]]
    if not names:
        return []
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return []
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.42 * len(names)), layout="constrained")
    try:
        for row, name in enumerate(names):
            _bar(axes, row, report["spread"][name], name)
        axes.axvline(1, color="#333333", linewidth=1.2)
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.grid(axis="x", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("compared with the peer's value or better (1 = as good), higher is better")
        axes.set_title(
            "How many times better than the peer; bars: median, whiskers: all rounds,"
            " diamonds: targets",
            fontsize=10,
            loc="left",
        )
        return [_save(figure, directory / "ratios.png")]
    finally:
        plt.close(figure)


def advantage(value: float, *, better: str) -> float:
    """Return by what factor a ratio is better than the peer, whichever direction is good."""
    return value if better == "higher" else 1 / value if value else float("inf")


def _bar(axes: Any, row: int, value: Mapping[str, Any], name: str) -> None:  # Any: matplotlib
    target = TARGETS[name]
    median, *ends = (
        advantage(value[key], better=target.better) for key in ("median", "min", "max")
    )
    low, high = min(ends), max(ends)
    colour = _MET if target.is_met(value["median"]) else _MISSED
    axes.barh(row, median, height=0.62, color=colour)
    axes.errorbar(
        median, row, xerr=[[median - low], [high - median]], color="#333333", capsize=3, linewidth=1
    )
    axes.plot(
        advantage(target.bound, better=target.better),
        row,
        marker="D",
        markersize=6,
        markerfacecolor="white",
        markeredgecolor="#333333",
    )
    axes.annotate(
        f"{median:.2f}x",
        (max(median, high), row),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
    )


def _save(figure: Any, path: Path) -> str:  # Any: matplotlib
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
    os.close(descriptor)
    figure.savefig(scratch, dpi=130, facecolor="white")
    Path(scratch).replace(path)
    return path.name
