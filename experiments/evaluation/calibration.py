"""Whether a probability of 0.9 is right nine times out of ten.

The event is "the answer is right". The calibration that is kept with a model was fitted on other
data and is measured on all answers. For a model without one, a temperature that divides the
log-odds of the chosen intent's probability is fitted on half of the groups and measured on the
other half.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from experiments.evaluation.intent_calibration import IntentCalibration
from experiments.evaluation.predictions import Prediction
from experiments.evaluation.report import (
    Calibration,
    CalibrationFigures,
    KeptCalibration,
    ReliabilityBin,
    SelectivePoint,
)

N_BINS = 15
"""As in Guo et al. (2017), "On Calibration of Modern Neural Networks"."""
_RESAMPLES = 1_000
"""Of groups, for a 95 % interval of the ECE; its ends are then known to a tenth of its width."""
_SEED = 20_261_126
_COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_EPSILON = 1e-6
"""Probabilities are kept this far from 0 and 1: float32 rounds near-certain ones to 1, whose
log-odds are infinite."""

Floats = NDArray[np.float64]


class Scored(NamedTuple):
    """Probabilities and outcomes, (n,) float64 each."""

    probability: Floats
    right: Floats


def calibrate(
    predictions: Sequence[Prediction], kept: IntentCalibration | None = None
) -> Calibration:
    """Measure calibration, fit a temperature on half of the groups, and measure on the others.

    Groups go to a half by a hash of their name, so that near-duplicates stay together and every
    run over the same items splits alike.

    Args:
        predictions: Judged answers.
        kept: The calibration of the model, by which their `confidence` was computed.
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
        kept=None if kept is None else _kept(known, kept),
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
        numbers = _bin_numbers(scored.probability)
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


def ece_interval(
    scored: Scored, groups: Sequence[str], *, seed: int = _SEED
) -> tuple[float, float]:
    """Return a 95 % interval of the ECE over resampled groups.

    Percentiles, less what resampling adds on average: noise only ever raises this figure, and
    without the correction the interval can lie above the figure itself (Efron, Tibshirani 1993,
    section 10.4).
    """
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    bins = _bin_numbers(scored.probability)
    n_groups = int(index.max()) + 1
    sums = np.zeros((n_groups, N_BINS))  # right answers beyond what the probabilities promise
    np.add.at(sums, (index, bins), scored.right - scored.probability)
    sizes = np.bincount(index, minlength=n_groups).astype(np.float64)
    generator = np.random.default_rng(seed)
    shares = np.full(n_groups, 1.0 / n_groups)
    found = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):
        drawn = generator.multinomial(n_groups, shares).astype(np.float64)
        found[i] = np.abs(drawn @ sums).sum() / (drawn @ sizes)
    estimate = np.abs(sums.sum(axis=0)).sum() / sizes.sum()
    lower, upper = np.quantile(found, (0.025, 0.975)) - (found.mean() - estimate)
    return max(0.0, float(lower)), float(upper)


def ece_by_chance(probability: Floats, *, seed: int = _SEED) -> float:
    """Return the mean ECE of answers that are right just as often as their probabilities say."""
    generator = np.random.default_rng(seed)
    bins = _bin_numbers(probability)
    total = 0.0
    for _ in range(_RESAMPLES):
        right = generator.uniform(size=len(probability)) < probability
        total += np.abs(np.bincount(bins, weights=right - probability, minlength=N_BINS)).sum()
    return float(total / (_RESAMPLES * len(probability)))


def _kept(known: Sequence[Prediction], kept: IntentCalibration) -> KeptCalibration | None:
    # Failed requests have no confidence; an answer in the schema always has one.
    usable = [p for p in known if p.confidence is not None and p.probability is not None]
    if not usable:
        return None
    after = _with_outcomes([p.confidence for p in usable], usable)
    lower, upper = ece_interval(after, [p.group for p in usable])
    return KeptCalibration(
        sha256=kept.sha256(),
        data_sha256=kept.data_sha256,
        temperature=kept.temperature,
        slope=kept.slope,
        intercept=kept.intercept,
        out_of_scope_threshold=None if kept.out_of_scope is None else kept.out_of_scope.threshold,
        n=len(usable),
        before=figures(_scored(usable)),
        after=figures(after),
        ece_lower=lower,
        ece_upper=upper,
        ece_by_chance=ece_by_chance(after.probability),
    )


def _scored(predictions: Sequence[Prediction]) -> Scored:
    return _with_outcomes([p.probability for p in predictions], predictions)


def _with_outcomes(
    probabilities: Sequence[float | None], predictions: Sequence[Prediction]
) -> Scored:
    return Scored(
        np.array(probabilities, dtype=np.float64),
        np.array([bool(p.correct) for p in predictions], dtype=np.float64),
    )


def _bin_numbers(probability: Floats) -> NDArray[np.int64]:
    # Intervals are open on the left, as in the paper; 0 itself belongs to the first.
    numbers: NDArray[np.int64] = np.clip(
        np.ceil(probability * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1
    )
    return numbers


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
