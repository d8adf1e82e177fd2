"""The picture of an answer: time until the answer is complete, and load, by number of machines."""

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cluster.errors import CommandError
from cluster.sizing.answer import Answer, Goal
from experiments.whole_file import write_whole

_LINES = {"p50": "#9ab8d8", "p95": "#20558a", "p99": "#c0562f"}


def check_drawing() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        CommandError: If matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise CommandError("--plot needs matplotlib", "make tracking, or pip install matplotlib")


def draw(answer: Answer, goal: Goal, *, rate: float, path: Path) -> None:
    """Write a PNG; `check_drawing` says whether that can be done."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8, 7), height_ratios=[3, 2], sharex=True, layout="constrained"
    )
    try:
        _times(above, answer, goal)
        _capacity(below, answer, rate)
        figure.suptitle(f"{rate:g} requests/s", fontsize=12)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=130)
    finally:
        plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, picture.getvalue())


def _times(axes: Any, answer: Answer, goal: Goal) -> None:  # Any: matplotlib is optional
    from matplotlib import ticker

    replicas = [size.replicas for size in answer.sizes]
    for name, colour in _LINES.items():
        values = [size.total_s[name].value for size in answer.sizes]
        errors = [size.total_s[name].error for size in answer.sizes]
        axes.errorbar(
            replicas, values, yerr=errors, color=colour, marker="o", capsize=3, label=name
        )
    if goal.total_p95_s is not None:
        axes.axhline(goal.total_p95_s, color="#333333", linestyle="--", label="goal for p95")
    if answer.needed is not None:
        axes.axvline(answer.needed, color="#2f7d5b", linestyle=":", label=f"{answer.needed} needed")
    axes.set_ylabel("seconds until complete")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.legend(frameon=False)
    _plain(axes)


def _capacity(axes: Any, answer: Answer, rate: float) -> None:
    replicas = [size.replicas for size in answer.sizes]
    axes.bar(replicas, [answer.capacity * n for n in replicas], color="#d5e2f0", width=0.6)
    axes.axhline(rate, color="#20558a", label="asked")
    axes.set_ylabel(f"requests/s at most\n({answer.capacity:.3g} per replica)")
    axes.set_xlabel("replicas")
    axes.set_xticks(replicas)
    axes.legend(frameon=False, loc="upper left")
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.grid(axis="y", color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
