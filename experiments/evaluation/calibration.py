"""Whether a probability of 0.9 is right nine times out of ten.

Only the chosen intent's probability is known, so the event that is calibrated is "the answer is
right", and a temperature divides the log-odds of that probability.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from experiments.evaluation.predictions import Prediction
from experiments.evaluation.report import (
    Calibration,
    CalibrationFigures,
    ReliabilityBin,
    SelectivePoint,
)

N_BINS = 15
"""As in Guo et al. (2017), "On Calibration of Modern Neural Networks"."""
_COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_EPSILON = 1e-6
"""Probabilities are kept this far from 0 and 1: float32 rounds near-certain ones to 1, whose
log-odds are infinite."""

Floats = NDArray[np.float64]


class Scored(NamedTuple):
    """Probabilities and outcomes, (n,) float64 each."""

    probability: Floats
    right: Floats


def calibrate(predictions: Sequence[Prediction]) -> Calibration:
    """Measure calibration, fit a temperature on half of the groups, and measure on the others.

    Groups go to a half by a hash of their name, so that near-duplicates stay together and every
    run over the same items splits alike.
    """
    known = [p for p in predictions if p.correct is not None]
    usable = [p for p in known if p.probability is not None]
    all_scored = _scored(usable)
    fit = _scored([p for p in usable if _is_fit_half(p.group)])
    held = _scored([p for p in usable if not _is_fit_half(p.group)])
    temperature = fit_temperature(fit) if len(fit.right) else None
    fitted = None
    if temperature is not None and len(held.right):
        fitted = figures(Scored(apply_temperature(held.probability, temperature), held.right))
    return Calibration(
        n=len(usable),
        n_without_probability=len(known) - len(usable),
        raw=figures(all_scored) if len(all_scored.right) else None,
        temperature=temperature,
        n_fit=len(fit.right),
        heldout_raw=figures(held) if len(held.right) else None,
        heldout_fitted=fitted,
        selective=selective_accuracy(all_scored) if len(all_scored.right) else (),
    )


def figures(scored: Scored) -> CalibrationFigures:
    """Return ECE, Brier score and log-loss of at least one answer."""
    bins = reliability_bins(scored)
    clipped = _clip(scored.probability)
    nll = -np.mean(scored.right * np.log(clipped) + (1 - scored.right) * np.log1p(-clipped))
    return CalibrationFigures(
        ece=_gap(bins),
        ece_adaptive=_gap(reliability_bins(scored, adaptive=True)),
        brier=float(np.mean((scored.probability - scored.right) ** 2)),
        nll=float(nll),
        bins=bins,
    )


def reliability_bins(scored: Scored, *, adaptive: bool = False) -> tuple[ReliabilityBin, ...]:
    """Sort answers into bins by probability.

    Args:
        scored: Probabilities and outcomes.
        adaptive: Bins with equally many answers instead of equally wide ones.
    """
    order = np.argsort(scored.probability, kind="stable")
    if adaptive:
        parts = [part for part in np.array_split(order, N_BINS) if len(part)]
        edges = [(float(scored.probability[p[0]]), float(scored.probability[p[-1]])) for p in parts]
    else:
        # Intervals are open on the left, as in the paper; 0 itself belongs to the first.
        numbers = np.clip(np.ceil(scored.probability * N_BINS).astype(int) - 1, 0, N_BINS - 1)
        parts = [np.flatnonzero(numbers == i) for i in range(N_BINS)]
        edges = [(i / N_BINS, (i + 1) / N_BINS) for i in range(N_BINS)]
    return tuple(
        ReliabilityBin(
            lower=lower,
            upper=upper,
            n=len(part),
            mean_probability=float(scored.probability[part].mean()) if len(part) else None,
            accuracy=float(scored.right[part].mean()) if len(part) else None,
        )
        for (lower, upper), part in zip(edges, parts, strict=True)
    )


def fit_temperature(scored: Scored) -> float | None:
    """Return the temperature with the smallest log-loss, None if all answers are right or wrong.

    With one outcome only the best temperature is infinitely small or large.

    References:
        Guo et al. (2017); for one class it is Platt scaling without the constant.
    """
    if not 0 < scored.right.sum() < len(scored.right):
        return None

    def loss(log_temperature: float) -> float:
        p = _clip(apply_temperature(scored.probability, float(np.exp(log_temperature))))
        return float(-np.mean(scored.right * np.log(p) + (1 - scored.right) * np.log1p(-p)))

    best = minimize_scalar(loss, bounds=(-3.0, 4.0), method="bounded")
    return float(np.exp(best.x))


def apply_temperature(probability: Floats, temperature: float) -> Floats:
    """Return probabilities whose log-odds are divided by the temperature."""
    clipped = _clip(probability)
    odds = np.log(clipped) - np.log1p(-clipped)
    scaled: Floats = 1.0 / (1.0 + np.exp(-odds / temperature))
    return scaled


def selective_accuracy(scored: Scored) -> tuple[SelectivePoint, ...]:
    """Return the accuracy of the surest answers, for several shares of all."""
    order = np.argsort(-scored.probability, kind="stable")
    points = []
    for coverage in _COVERAGES:
        chosen = order[: max(1, round(coverage * len(order)))]
        points.append(
            SelectivePoint(
                coverage=coverage,
                accuracy=float(scored.right[chosen].mean()),
                threshold=float(scored.probability[chosen[-1]]),
            )
        )
    return tuple(points)


def _scored(predictions: Sequence[Prediction]) -> Scored:
    return Scored(
        np.array([p.probability for p in predictions], dtype=np.float64),
        np.array([bool(p.correct) for p in predictions], dtype=np.float64),
    )


def _is_fit_half(group: str) -> bool:
    return hashlib.sha256(f"temperature:{group}".encode()).digest()[0] % 2 == 0


def _gap(bins: Sequence[ReliabilityBin]) -> float:
    total = sum(b.n for b in bins)
    gaps = [
        b.n * abs(b.accuracy - b.mean_probability)
        for b in bins
        if b.accuracy is not None and b.mean_probability is not None
    ]
    return sum(gaps) / total


def _clip(probability: Floats) -> Floats:
    clipped: Floats = np.clip(probability, _EPSILON, 1.0 - _EPSILON)
    return clipped
