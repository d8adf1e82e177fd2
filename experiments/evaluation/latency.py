"""Latency of answers, from the monotonic clock of whoever asked."""

from collections.abc import Sequence

import numpy as np

from experiments.evaluation.predictions import Prediction
from experiments.evaluation.report import Latency


def latency_of(predictions: Sequence[Prediction]) -> Latency:
    """Return percentiles, by linear interpolation; items without an answer are left out."""
    answered = [p for p in predictions if p.error is None]
    times = np.array([p.latency_s for p in answered])
    first = [p.ttft_s for p in answered if p.ttft_s is not None]
    tokens = sum(p.completion_tokens or 0 for p in answered)
    total_s = float(times.sum())
    if not answered:
        return Latency(
            n=0,
            mean_s=None,
            p50_s=None,
            p90_s=None,
            p95_s=None,
            p99_s=None,
            ttft_p95_s=None,
            tokens_per_s=None,
        )
    p50, p90, p95, p99 = (float(q) for q in np.percentile(times, [50, 90, 95, 99]))
    return Latency(
        n=len(answered),
        mean_s=float(times.mean()),
        p50_s=p50,
        p90_s=p90,
        p95_s=p95,
        p99_s=p99,
        ttft_p95_s=float(np.percentile(first, 95)) if first else None,
        tokens_per_s=tokens / total_s if tokens and total_s > 0 else None,
    )
