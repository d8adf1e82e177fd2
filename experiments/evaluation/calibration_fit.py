"""Fits a calibration of intents on data that nothing is judged on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import betaincinv

from experiments.evaluation.errors import EvaluationError
from experiments.evaluation.intent_calibration import EDGE, OperatingPoint, temper

MOST_FALSE_ALARMS = 0.05
"""Questions about vehicles that may be turned away; the threshold of the evaluation."""
_ALPHA = 0.05
"""Of the one-sided bound on them: the data is a sample, and the next one differs."""
_LEAST_N = 50
"""Fewer answers fit noise: three numbers are fitted, ten answers each and some to spare."""
_LEAST_OF_EACH = 5
"""Right and wrong answers that there must be, for a line between them to mean anything."""
_LEAST_STEP = 1e-6
"""By which a threshold is above the highest score where none may reach it."""
_LOG_TEMPERATURES = (-3.0, 4.0)
_LOG_SLOPES = (-3.0, 3.0)

Floats = NDArray[np.float64]


class CannotFit(EvaluationError):
    """The data does not determine a calibration."""


class Answered(NamedTuple):
    """One answer to a question whose intent is known."""

    probabilities: dict[str, float]
    predicted: str
    intent: str
    weight: float = 1.0
    """In the fit; no part of the counts that bound false alarms."""


class Fit(NamedTuple):
    """Three numbers of a calibration."""

    temperature: float
    slope: float
    intercept: float


def fit(answers: Sequence[Answered]) -> Fit:
    """Fit temperature, then slope and intercept, each by the smallest log-loss.

    The temperature makes the whole distribution honest (Guo et al. 2017). A line through the
    log-odds of the predicted intent (Platt 1999) then mends what one number cannot.
    Answers count by their weights, and determine no more than so many equal ones: the square of the
    sum of the weights over the sum of their squares (Kish 1965).

    Raises:
        CannotFit: If there are too few answers, or nearly all are right or wrong.
    """
    right = np.array([a.predicted == a.intent for a in answers], dtype=np.float64)
    weights = np.array([a.weight for a in answers], dtype=np.float64)
    n_right = int(right.sum())
    n_equal = float(weights.sum() ** 2 / (weights**2).sum()) if answers else 0.0
    if n_equal < _LEAST_N or not _LEAST_OF_EACH <= n_right <= len(right) - _LEAST_OF_EACH:
        weighed = "" if np.all(weights == 1.0) else f", which weigh as {n_equal:.0f} equal ones,"
        raise CannotFit(
            f"{n_right} right answers of {len(right)}{weighed} determine no calibration; at least "
            f"{_LEAST_N} are needed, with {_LEAST_OF_EACH} right and {_LEAST_OF_EACH} wrong ones",
            "give larger files of conversations that the model was not trained on",
        )
    temperature = _temperature(answers, weights)
    top = [temper(a.probabilities, temperature).get(a.predicted, 0.0) for a in answers]
    slope, intercept = _line(np.array(top), right, weights)
    return Fit(temperature, slope, intercept)


def choose_threshold(
    answers: Sequence[Answered],
    temperature: float,
    *,
    label: str,
    most_false_alarms: float = MOST_FALSE_ALARMS,
) -> OperatingPoint | None:
    """Choose the lowest threshold whose false alarms stay below a share, at a 95 % bound.

    Recall plays no part in it: the lowest threshold has the most. A bound, because the share of a
    sample is exceeded by every second sample. It needs counts, so every answer counts once whatever
    its weight: the share is that of the files together, each by its size.

    Args:
        answers: What was fitted on.
        temperature: Of the fit.
        label: The intent of off-topic questions.
        most_false_alarms: Of the other questions.

    Returns:
        None if there are too few other questions for any such bound, or the model is certain of
        too many of them.
    """
    scores = np.array([temper(a.probabilities, temperature).get(label, 0.0) for a in answers])
    outside = np.array([a.intent == label for a in answers], dtype=bool)
    inside = np.sort(scores[~outside])[::-1]
    allowed = _allowed_alarms(len(inside), most_false_alarms)
    if allowed is None:
        return None
    threshold = _threshold_above(inside, allowed)
    if threshold > 1.0:
        return None
    n_alarms = int((inside >= threshold).sum())
    return OperatingPoint(
        label=label,
        threshold=threshold,
        most_false_alarms=most_false_alarms,
        false_alarms=n_alarms / len(inside),
        false_alarms_upper=_upper_bound(n_alarms, len(inside)),
        recall=float((scores[outside] >= threshold).mean()) if outside.any() else None,
        n_in_scope=len(inside),
        n_out_of_scope=int(outside.sum()),
    )


def _temperature(answers: Sequence[Answered], weights: Floats) -> float:
    labels = sorted({label for a in answers for label in a.probabilities})
    place = {label: i for i, label in enumerate(labels)}
    logs = np.full((len(answers), len(labels)), -np.inf)  # (n_answers, n_labels) float64
    for row, a in zip(logs, answers, strict=True):
        for label, p in a.probabilities.items():
            if p > 0:
                row[place[label]] = np.log(p)
    # An intent that is not among the candidates is less likely than the last of them.
    least = np.min(np.where(np.isfinite(logs), logs, np.inf), axis=1)
    columns = [place.get(a.intent, -1) for a in answers]
    true = np.array([row[c] if c >= 0 else -np.inf for row, c in zip(logs, columns, strict=True)])
    true = np.where(np.isfinite(true), true, least)

    def loss(log_temperature: float) -> float:
        t = float(np.exp(log_temperature))
        norm = np.logaddexp.reduce(logs / t, axis=1)
        return float(np.average(norm - true / t, weights=weights))

    best = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded")
    return float(np.exp(best.x))


def _line(probability: Floats, right: Floats, weights: Floats) -> tuple[float, float]:
    clipped = np.clip(probability, EDGE, 1.0 - EDGE)
    odds = np.log(clipped) - np.log1p(-clipped)

    def loss(parameters: Floats) -> float:
        scaled = np.exp(parameters[0]) * odds + parameters[1]
        losses = np.logaddexp(0.0, scaled) - right * scaled
        return float(np.average(losses, weights=weights))

    best = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=(_LOG_SLOPES, (None, None)))
    return float(np.exp(best.x[0])), float(best.x[1])


def _allowed_alarms(n: int, limit: float) -> int | None:
    """Return the most events of `n` whose upper bound keeps the limit; None if not even 0 does."""
    allowed = None
    for events in range(n):
        if _upper_bound(events, n) > limit:
            break
        allowed = events
    return allowed


def _upper_bound(events: int, n: int) -> float:
    return 1.0 if events >= n else float(betaincinv(events + 1, n - events, 1.0 - _ALPHA))


def _threshold_above(scores: Floats, allowed: int) -> float:
    """Return a threshold that at most `allowed` of some scores in falling order reach."""
    while allowed and scores[allowed - 1] == scores[allowed]:
        allowed -= 1  # equal scores are on one side
    # Half way to the next one, so that rounding moves nobody across.
    step = (scores[allowed - 1] - scores[allowed]) / 2 if allowed else _LEAST_STEP
    return float(scores[allowed] + step)
