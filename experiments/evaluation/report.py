"""The record of an evaluation run, `report.json`: what the gate and the registry read."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from experiments.evaluation.errors import BadInput
from experiments.evaluation.predictions import FILE_NAME as PREDICTIONS_NAME
from experiments.evaluation.predictions import Prediction, read_predictions

SCHEMA_VERSION = 3
FILE_NAME = "report.json"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TargetInfo(_Record):
    """What was measured."""

    kind: Literal["served", "gguf", "baseline"]
    name: str
    version: str | None = None
    sha256: Sha256 | None = None
    """Of the GGUF; None where it is not known, as behind a server of somebody else."""
    grammar: bool
    """Whether the answer's form was forced."""
    prior_sha256: Sha256 | None = None
    """Of the intent prior that was added, with its weight; None where there was none, or a server
    does not tell."""


class SuiteInfo(_Record):
    """A suite that was used."""

    sha256: Sha256
    n: int
    """Items that were asked; those of a skipped part are not among them."""


class Dimension(_Record):
    """One thing that a model must be good at."""

    name: str
    value: float | None
    """None where nothing could be measured: unknown is not zero."""
    n: int
    ci_lower: float | None = None
    ci_upper: float | None = None
    """95 % interval, Wilson's for shares; None where there is none."""
    threshold: float
    direction: Literal["at_least", "at_most"]
    passed: bool | None
    """Whether the value keeps the threshold; the gate looks at the interval too."""


class Rate(_Record):
    """A share with its 95 % Wilson interval."""

    value: float | None
    n: int
    ci_lower: float | None = None
    ci_upper: float | None = None


class Slices(_Record):
    """Intent accuracy of parts of the items; an item with several noises is in several parts."""

    by_suite: dict[str, Rate]
    by_intent: dict[str, Rate]
    by_register: dict[str, Rate]
    by_noise: dict[str, Rate]


class ReliabilityBin(_Record):
    """Answers whose probabilities lie close together."""

    lower: float
    upper: float
    n: int
    mean_probability: float | None
    accuracy: float | None


class CalibrationFigures(_Record):
    """How far probabilities can be believed."""

    ece: float
    """Expected calibration error, 15 bins of equal width."""
    ece_adaptive: float
    """The same, 15 bins of equal size."""
    brier: float
    nll: float
    """Mean negative log-likelihood of right or wrong, in nats."""
    bins: tuple[ReliabilityBin, ...]


class SelectivePoint(_Record):
    """Accuracy when only the surest answers are given."""

    coverage: float
    accuracy: float
    threshold: float
    """Smallest probability among them."""


class KeptCalibration(_Record):
    """What the calibration that is kept with the model is worth here, on data it has not seen."""

    sha256: Sha256
    """Of its file."""
    data_sha256: Sha256
    """Of the data that it was fitted on."""
    temperature: float
    slope: float
    intercept: float
    out_of_scope_threshold: float | None
    n: int
    """Answers with a calibrated confidence."""
    before: CalibrationFigures
    """The same answers, as the model gave them."""
    after: CalibrationFigures
    ece_lower: float
    ece_upper: float
    """95 % interval of the ECE after, over resampled groups, without the noise these add."""
    ece_by_chance: float
    """Mean ECE of as many answers whose probabilities are exact: what sampling alone makes of it,
    and no calibration can undercut."""


class Calibration(_Record):
    """Calibration of the intent's probability; fitted on half of the groups, judged on the rest."""

    n: int
    n_without_probability: int
    raw: CalibrationFigures | None
    """All answers with a probability, as the model gave it."""
    temperature: float | None
    """Divides the log-odds; above 1 the model is too sure of itself."""
    n_fit: int
    heldout_raw: CalibrationFigures | None
    heldout_fitted: CalibrationFigures | None
    selective: tuple[SelectivePoint, ...]
    kept: KeptCalibration | None = None
    """None where the model has no calibration."""


class Confusion(_Record):
    """How often which intent was taken for which."""

    labels: tuple[str, ...]
    """The last one stands for answers without a valid intent."""
    counts: tuple[tuple[int, ...], ...]
    """Rows: right intents, columns: predicted ones, in the order of the labels."""


class Latency(_Record):
    """Seconds of an answer, errors left out."""

    n: int
    mean_s: float | None
    p50_s: float | None
    p90_s: float | None
    p95_s: float | None
    p99_s: float | None
    ttft_p95_s: float | None
    tokens_per_s: float | None


class OutOfScope(_Record):
    """How questions that are not about vehicles are told from those that are.

    By the operating point of the model's calibration; by the intent that the answer names where
    there is none.
    """

    recall: Rate
    false_alarms: Rate
    named_recall: Rate | None = None
    named_false_alarms: Rate | None = None
    """Both by the intent that the answer names; None where nothing else decides."""


class BaselineResult(_Record):
    """A simpler classifier on the same items."""

    name: str
    accuracy: Rate
    slang_accuracy: Rate
    macro_f1: float
    trained_on: str
    """SHA-256 of the training file."""
    n_trained: int | None = None
    """Messages of it that were learnt from; None in older reports."""


class Finding(_Record):
    """Something in one answer that should not be there."""

    id: str
    kind: Literal["violation", "pii_echo", "grounding_error", "error"]
    reason: str
    text: str
    """The answer, cut where it is long."""


class Report(_Record):
    """Everything that a run found out."""

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    created_at: AwareDatetime
    target: TargetInfo
    suites: dict[str, SuiteInfo]
    suite_sha256: Sha256
    predictions_sha256: Sha256
    n_errors: int
    """Items without an answer."""
    dimensions: tuple[Dimension, ...]
    skipped: tuple[str, ...] = ()
    """Dimensions that the caller did not want."""
    slices: Slices
    confusion: Confusion
    calibration: Calibration
    latency: Latency
    out_of_scope: OutOfScope
    baselines: tuple[BaselineResult, ...] = ()
    findings: tuple[Finding, ...] = ()
    metrics: dict[str, float]
    """Every single number again under one name, for trackers and tables."""


def read_run(folder: Path) -> tuple[Report, tuple[Prediction, ...]]:
    """Read an evaluation folder and check that its two files belong together.

    Raises:
        BadInput: If a file is missing, broken, newer than this code, or not the other's.
    """
    report = read_report(folder / FILE_NAME)
    path = folder / PREDICTIONS_NAME
    predictions = read_predictions(path)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != report.predictions_sha256:
        raise BadInput(
            f"{str(path)!r} has SHA-256 {actual}, its report says {report.predictions_sha256}",
            "run the evaluation again: one of the two files was changed afterwards",
        )
    return report, predictions


def read_report(path: Path) -> Report:
    """Read a report.

    Raises:
        BadInput: If it is missing, broken, or newer than this code.
    """
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as err:
        raise BadInput(f"Cannot read {str(path)!r}: {err.strerror}") from err
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{str(path)!r} is no evaluation report: {where}: {first['msg']}") from err
