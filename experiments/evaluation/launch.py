"""From settings to a finished run: opens target and suites, trains the classifiers, measures."""

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.evaluation.dimensions import Skippable
from experiments.evaluation.errors import BadInput
from experiments.evaluation.intent_calibration import (
    IntentCalibration,
    find_calibrations,
    read_calibration,
    with_prior,
)
from experiments.evaluation.items import Suite, read_suite
from experiments.evaluation.profile import DEFAULT_DIR, Profile, read_profile
from experiments.evaluation.report import Report, TargetInfo
from experiments.evaluation.run import run
from experiments.evaluation.settings import PACKAGED_SUITES, EvaluationSettings
from experiments.evaluation.target import Target
from experiments.home import carril_home

if TYPE_CHECKING:
    from experiments.evaluation.baselines import Baselines

OnStage = Callable[[str], None]
OnProgress = Callable[[int, int], None]
SHIPPED_MODELS = DEFAULT_DIR.parent
"""Folder of the models that come along."""
_NOT_OF_A_CLASSIFIER = {
    Skippable.ADVERSARIAL,
    Skippable.GROUNDING,
    Skippable.LEADS,
    Skippable.NATURALNESS,
    Skippable.PII,
}
"""What needs an answer in words, which a classifier does not give."""


def evaluate(
    settings: EvaluationSettings,
    out: Path,
    *,
    api_key: str | None = None,
    on_stage: OnStage = lambda _text: None,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Report:
    """Run an evaluation.

    Args:
        settings: What to measure.
        out: Folder of the run.
        api_key: Key of the server.
        on_stage: Called with a line when something new begins.
        on_progress: Called with (done, total) after each answer.

    Raises:
        EvaluationError: If a file cannot be used or the target cannot be reached.
    """
    if (out / "report.json").exists():
        raise BadInput(
            f"There is a report in {str(out)!r} already", "name another folder with --out"
        )
    profile = read_profile(settings.profile)
    suites = open_suites(settings, profile)
    on_stage(", ".join(f"{suite.name}: {len(suite.items)} items" for suite in suites))
    baselines = None
    if settings.train is not None:
        from experiments.evaluation.baselines import Baselines

        baselines = Baselines(settings.train)
        on_stage(f"the simpler classifiers learn from {baselines.n_messages} messages")
    # Opened first: who mistyped its name need not wait for classifiers to be fitted.
    target = open_target(settings, profile, api_key=api_key, baselines=baselines)
    try:
        return run(
            target,
            suites,
            profile,
            out=out,
            thresholds=settings.thresholds,
            skip=settings.skip | (_NOT_OF_A_CLASSIFIER if settings.target == "baseline" else set()),
            baselines=() if baselines is None else baselines.measure(suites),
            calibration_of=lambda info: calibration_of(settings, info, on_stage=on_stage),
            on_progress=on_progress,
        )
    finally:
        target.close()


def open_target(
    settings: EvaluationSettings,
    profile: Profile,
    *,
    api_key: str | None = None,
    baselines: "Baselines | None" = None,
) -> Target:
    """Open what the settings ask for.

    Raises:
        EvaluationError: If it cannot be reached or opened.
    """
    if settings.target == "served":
        from experiments.evaluation.served_target import ServedTarget

        return ServedTarget(
            settings.url,
            settings.model or "",
            profile,
            api_key=api_key or os.environ.get("CARRIL_API_KEY"),
            workers=settings.concurrency,
        )
    if settings.target == "gguf":
        from experiments.evaluation.gguf_target import GgufTarget

        return GgufTarget(
            Path(settings.model or ""),
            profile,
            grammar=settings.grammar,
            threads=settings.threads,
            n_ctx=settings.n_ctx,
        )
    from experiments.evaluation.baselines import BaselineTarget

    assert baselines is not None  # noqa: S101 (the settings demand a training file)
    return BaselineTarget(baselines, settings.baseline_model)


def calibration_of(
    settings: EvaluationSettings,
    target: TargetInfo,
    *,
    on_stage: OnStage = lambda _text: None,
) -> IntentCalibration | None:
    """Return the calibration of exactly the file that was measured, with its very prior.

    Args:
        settings: Which one to take, if they name one.
        target: What was measured.
        on_stage: Called with a line when there is none.

    Raises:
        BadInput: If the settings name one of another file or prior, or a record is broken.
    """
    if settings.calibration is not None:
        given = read_calibration(settings.calibration)
        if given.model_sha256 != target.sha256:
            raise BadInput(
                f"{str(settings.calibration)!r} is the calibration of the file "
                f"{given.model_sha256}; measured was {target.sha256 or 'an unknown one'}",
                "fit it on this file: carril eval calibrate",
            )
        if given.prior_sha256 != target.prior_sha256:
            raise BadInput(
                f"{str(settings.calibration)!r} was fitted {with_prior(given.prior_sha256)}; "
                f"measured was this file {with_prior(target.prior_sha256)}",
                "fit it again with this profile: carril eval calibrate",
            )
        return given
    if target.sha256 is None:
        return None
    if target.kind == "gguf":
        folders = [Path(settings.model or "").parent]
    else:
        blobs = carril_home() / "registry" / "blobs"
        folders = [blobs / target.sha256[:2], SHIPPED_MODELS]
    found = find_calibrations(target.sha256, folders)
    for calibration in found:
        if calibration.prior_sha256 == target.prior_sha256:
            return calibration
    if found:
        on_stage(
            f"the calibration of {target.name} was fitted {with_prior(found[0].prior_sha256)}, and "
            f"measured was {with_prior(target.prior_sha256)}: it is left out; carril eval "
            "calibrate fits it again"
        )
    else:
        on_stage(f"{target.name} has no calibration; carril eval calibrate fits one")
    return None


def open_suites(settings: EvaluationSettings, profile: Profile) -> list[Suite]:
    """Read every suite, with the packaged ones where none of that name is given.

    Raises:
        BadInput: If a file is broken, or a folder has no suite.
    """
    paths: list[Path] = []
    for given in settings.suites:
        found = sorted(given.glob("*.jsonl")) if given.is_dir() else [given]
        if not found:
            raise BadInput(f"There is no .jsonl file in the folder {str(given)!r}")
        paths += found
    names = {path.stem for path in paths}
    skipped = {"adversarial": Skippable.ADVERSARIAL, "pii_echo": Skippable.PII}
    if settings.target != "baseline":
        paths += [
            path
            for path in sorted(PACKAGED_SUITES.glob("*.jsonl"))
            if path.stem not in names and skipped.get(path.stem) not in settings.skip
        ]
    if not paths:
        raise BadInput("No suite is given", "name a file or folder with --suite")
    suites = [read_suite(path, intents=profile.intents) for path in paths]
    return [_limited(suite, settings.limit) for suite in suites]


def default_out(settings: EvaluationSettings, home: Path) -> Path:
    """Return a folder for the run under the home: model and time."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return home / "evaluations" / f"{settings.run_name}-{stamp}"


def _limited(suite: Suite, limit: int | None) -> Suite:
    if limit is None or limit >= len(suite.items):
        return suite
    chosen = sorted(suite.items, key=lambda item: hashlib.sha256(item.id.encode()).digest())[:limit]
    ids = "\n".join(sorted(item.id for item in chosen))
    digest = hashlib.sha256(f"{suite.sha256}\n{ids}".encode()).hexdigest()
    return Suite(name=suite.name, sha256=digest, items=tuple(chosen))
