"""Runs an evaluation: asks every item, judges the answers, writes the folder."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from experiments.evaluation.calibration import calibrate
from experiments.evaluation.confusion import confusion_of, macro_f1
from experiments.evaluation.dimensions import Measured, Skippable, Thresholds, dimensions_of
from experiments.evaluation.errors import BadInput
from experiments.evaluation.intent_calibration import IntentCalibration
from experiments.evaluation.items import SLANG_REGISTER, Item, Suite, check_distinct, suite_sha256
from experiments.evaluation.jsonl import to_lines
from experiments.evaluation.latency import latency_of
from experiments.evaluation.metrics.text import answer_lengths
from experiments.evaluation.predictions import FILE_NAME as PREDICTIONS_NAME
from experiments.evaluation.predictions import Prediction
from experiments.evaluation.profile import Profile
from experiments.evaluation.rates import out_of_scope_of, slices_of
from experiments.evaluation.report import FILE_NAME as REPORT_NAME
from experiments.evaluation.report import BaselineResult, Report, SuiteInfo, TargetInfo
from experiments.evaluation.scoring import Judged, judge
from experiments.evaluation.target import Target
from experiments.evaluation.violations import is_adversarial
from experiments.whole_file import write_whole

OnProgress = Callable[[int, int], None]
CalibrationOf = Callable[[TargetInfo], IntentCalibration | None]
_MOST_FINDINGS = 200
"""Findings that the report shows; all are in the counts."""


def run(
    target: Target,
    suites: Sequence[Suite],
    profile: Profile,
    *,
    out: Path,
    thresholds: Thresholds | None = None,
    skip: Collection[Skippable] = (),
    baselines: Sequence[BaselineResult] = (),
    calibration_of: CalibrationOf = lambda _target: None,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Report:
    """Measure a target on suites and write the folder of the run.

    Args:
        target: What is asked.
        suites: With distinct names and ids.
        profile: What an answer must look like.
        out: Folder for `predictions.jsonl`, `report.json`, `report.md` and `report.html`.
        thresholds: What must be reached.
        skip: Parts to leave out; attacks are then not even asked.
        baselines: Results of simpler classifiers on the same items, for the table.
        calibration_of: Finds the calibration of what was measured; asked after the last answer,
            when a served model's hash is known.
        on_progress: Called with (done, total) after each answer.

    Raises:
        BadInput: If two suites clash, or nothing is left to ask.
        TargetUnavailable: If the target cannot be asked at all.
    """
    from experiments.evaluation.html import to_html
    from experiments.evaluation.markdown import to_markdown

    check_distinct(suites)
    items = [item for suite in suites for item in suite.items]
    if Skippable.ADVERSARIAL in skip:
        items = [item for item in items if not is_adversarial(item)]
    if not items:
        raise BadInput("Nothing is left to ask: every item of these suites is skipped")
    judged = []
    for result in _ask_all(target, items, profile):
        judged.append(result)
        on_progress(len(judged), len(items))
    info = target.info()
    calibration = calibration_of(info)
    if calibration is not None:
        judged = [_decided(result, calibration) for result in judged]
    predictions = [result.prediction for result in judged]
    lines = to_lines(list(predictions))
    report = _report(info, suites, judged, lines, profile, thresholds, skip, baselines, calibration)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / PREDICTIONS_NAME, lines)
    write_whole(out / "report.md", to_markdown(report).encode())
    write_whole(out / "report.html", to_html(report, predictions).encode())
    # Last: a folder with a report is a complete one.
    write_whole(out / REPORT_NAME, (report.model_dump_json(indent=2) + "\n").encode())
    return report


def _ask_all(target: Target, items: Sequence[Item], profile: Profile) -> Iterator[Judged]:
    if target.workers == 1:
        for item in items:
            yield judge(item, target.answer(item), profile)
        return
    with ThreadPoolExecutor(target.workers) as pool:
        futures = [pool.submit(target.answer, item) for item in items]
        try:
            for item, future in zip(items, futures, strict=True):
                yield judge(item, future.result(), profile)
        finally:
            pool.shutdown(cancel_futures=True)


def _decided(result: Judged, calibration: IntentCalibration) -> Judged:
    p = result.prediction
    if p.probabilities is None or p.predicted is None:
        return result
    decision = calibration.decide(p.probabilities, p.predicted)
    update = {"confidence": decision.confidence, "out_of_scope": decision.out_of_scope}
    return result._replace(prediction=p.model_copy(update=update))


def _report(
    info: TargetInfo,
    suites: Sequence[Suite],
    judged: Sequence[Judged],
    lines: bytes,
    profile: Profile,
    thresholds: Thresholds | None,
    skip: Collection[Skippable],
    baselines: Sequence[BaselineResult],
    kept: IntentCalibration | None,
) -> Report:
    predictions = [result.prediction for result in judged]
    asked = {p.id for p in predictions}
    latency, calibration = latency_of(predictions), calibrate(predictions, kept)
    measured = Measured(predictions, latency, calibration, info.grammar)
    findings = [finding for result in judged for finding in result.findings]
    report = Report(
        created_at=datetime.now(UTC).replace(microsecond=0),
        target=info,
        suites={
            suite.name: SuiteInfo(sha256=suite.sha256, n=sum(i.id in asked for i in suite.items))
            for suite in suites
        },
        suite_sha256=suite_sha256([s.sha256 for s in suites]),
        predictions_sha256=hashlib.sha256(lines).hexdigest(),
        n_errors=sum(p.error is not None for p in predictions),
        dimensions=dimensions_of(measured, thresholds or Thresholds(), skip=skip),
        skipped=tuple(sorted(part.value for part in skip)),
        slices=slices_of(predictions),
        confusion=confusion_of(predictions, profile.intents),
        calibration=calibration,
        latency=latency,
        out_of_scope=out_of_scope_of(predictions),
        baselines=tuple(baselines),
        findings=tuple(findings[:_MOST_FINDINGS]),
        metrics={},
    )
    return report.model_copy(update={"metrics": _metrics(report, predictions, profile)})


def _kept_metrics(report: Report) -> dict[str, float | None]:
    """Return what the model's own calibration changes; it takes the place of the half-fit."""
    kept, scope = report.calibration.kept, report.out_of_scope
    found: dict[str, float | None] = {}
    if scope.named_recall is not None and scope.named_false_alarms is not None:
        found["out_of_scope_recall_named"] = scope.named_recall.value
        found["out_of_scope_false_alarms_named"] = scope.named_false_alarms.value
    if kept is not None:
        found |= {
            "ece_lower": kept.ece_lower,
            "ece_upper": kept.ece_upper,
            "ece_by_chance": kept.ece_by_chance,
            "brier": kept.after.brier,
            "nll": kept.after.nll,
            "temperature": kept.temperature,
        }
    return found


def _metrics(
    report: Report, predictions: Sequence[Prediction], profile: Profile
) -> dict[str, float]:
    slang = report.slices.by_register.get(SLANG_REGISTER)
    raw, fitted = report.calibration.raw, report.calibration.heldout_fitted
    signals = [p.signals_correct for p in predictions if p.signals_correct is not None]
    answers = [a for a in (profile.parse(p.text) for p in predictions) if a is not None]
    lengths = answer_lengths([str(answer["response"]) for answer in answers])
    found: dict[str, float | None] = {
        **{d.name: d.value for d in report.dimensions},
        "n_items": float(len(predictions)),
        "n_errors": float(report.n_errors),
        "macro_f1": macro_f1(report.confusion),
        "slang_accuracy": None if slang is None else slang.value,
        "signals_accuracy": sum(signals) / len(signals) if signals else None,
        "ece_raw": None if raw is None else raw.ece,
        "ece_adaptive_raw": None if raw is None else raw.ece_adaptive,
        "brier_raw": None if raw is None else raw.brier,
        "nll_raw": None if raw is None else raw.nll,
        "brier": None if fitted is None else fitted.brier,
        "nll": None if fitted is None else fitted.nll,
        "temperature": report.calibration.temperature,
        **_kept_metrics(report),
        "latency_p50_s": report.latency.p50_s,
        "latency_p90_s": report.latency.p90_s,
        "latency_p99_s": report.latency.p99_s,
        "answer_words_mean": None if lengths is None else lengths.mean,
        "tokens_per_s": report.latency.tokens_per_s,
    }
    for point in report.calibration.selective:
        found[f"accuracy_at_coverage_{round(100 * point.coverage)}"] = point.accuracy
    for baseline in report.baselines:
        found[f"baseline_{baseline.name}_accuracy"] = baseline.accuracy.value
    return {name: value for name, value in found.items() if value is not None}
