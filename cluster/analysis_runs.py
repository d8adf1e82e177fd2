"""An analysis as a run in MLflow: `experiments` itself knows neither MLflow nor training."""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.analysis.result import Analysis

_EXPERIMENT = "experiments"
"""Name of the experiment in MLflow that holds all analyses."""


def track(analysis: "Analysis", page: str) -> None:
    """Record verdict, effects, health, the page and the evidence file; without MLflow say so.

    Args:
        analysis: What was found.
        page: The report, HTML.
    """
    from experiments.decision.codec import to_json
    from training.tracking import start_run

    name = f"{analysis.experiment} v{analysis.version}"
    with (
        start_run(_EXPERIMENT, name, tags=_tags(analysis), say=_say) as run,
        tempfile.TemporaryDirectory() as folder,
    ):
        run.log_metrics(_metrics(analysis))
        for file, text in (
            ("report.html", page),
            ("evidence.json", to_json(analysis.record, indent=2)),
        ):
            path = Path(folder) / file
            path.write_text(text, encoding="utf-8")
            run.log_artifact(path)


def _say(reason: str) -> None:
    sys.stderr.write(f"{reason}\n")


def _tags(analysis: "Analysis") -> dict[str, str]:
    return {
        "carril.experiment": analysis.experiment,
        "carril.version": str(analysis.version),
        "carril.control": analysis.control,
        "carril.treatment": analysis.treatment,
        "carril.verdict": analysis.decision.verdict.value,
        "carril.reasons": ",".join(code.value for code in analysis.decision.codes),
        "carril.events_sha256": analysis.evidence.events_sha256 or "",
        "carril.evidence_sha256": analysis.decision.evidence_sha256,
    }


def _metrics(analysis: "Analysis") -> dict[str, float]:
    """Return effects with their ends, sizes and the tests of the split."""
    health = analysis.evidence.health
    found = {
        "units.control": float(health.n_control),
        "units.treatment": float(health.n_treatment),
        "srm_sequential_p": health.srm_sequential_p,
        "multi_exposed_units": float(health.multi_exposed_units),
    }
    for metric in analysis.evidence.metrics:
        place = f"{metric.name}.{metric.population.value}"
        for what in ("effect", "ci_lower", "ci_upper", "p_value"):
            value = getattr(metric, what)
            if value is not None:
                found[f"{place}.{what}"] = value
    return found
