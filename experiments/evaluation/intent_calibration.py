"""How far a model's intent probabilities can be believed, and when to call a question off-topic.

The record lies beside the model file as `NAME.calibration.json`. Applying it needs no more than
arithmetic, in any language:

    tempered    t_i = p_i ** (1 / temperature), divided by their sum
    confidence  1 / (1 + exp(-(slope * ln(t / (1 - t)) + intercept))), t that of the answer's intent
    off-topic   t of `out_of_scope.label` >= `out_of_scope.threshold`
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from experiments.evaluation.errors import BadInput
from experiments.whole_file import write_whole

SCHEMA_VERSION = 1
EDGE = 1e-6
"""Probabilities are kept this far from 0 and 1, whose log-odds are infinite."""
_SUFFIX = ".calibration.json"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OperatingPoint(_Record):
    """From which probability on a question is taken as off-topic."""

    label: str
    """The intent of such questions."""
    threshold: Annotated[float, Field(gt=0, le=1)]
    """Least tempered probability of the label."""
    most_false_alarms: Annotated[float, Field(gt=0, lt=1)]
    """Share that was asked for; the upper bound below keeps it."""
    false_alarms: Share
    """Share of the other questions of the data at or above the threshold."""
    false_alarms_upper: Share
    """Its one-sided 95 % bound (Clopper-Pearson)."""
    recall: Share | None
    """Share of the off-topic questions of the data; None where there were none. Seen by the fit."""
    n_in_scope: Annotated[int, Field(ge=1)]
    n_out_of_scope: Annotated[int, Field(ge=0)]


class Decision(NamedTuple):
    """What a calibration says of one answer."""

    confidence: float
    """That the intent is right."""
    out_of_scope_probability: float
    out_of_scope: bool | None
    """None where the calibration has no operating point."""


class IntentCalibration(_Record):
    """A fit of one model file on files of data, on which nothing may be judged."""

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    model: str
    """Name of the model file."""
    model_sha256: Sha256
    data: str
    """Names of the data files, joined by ` + `."""
    data_sha256: Sha256
    """Over their contents, one after the other."""
    grammar: bool
    """Whether the answers' form was forced."""
    prior_sha256: Sha256 | None = None
    """Of the intent prior that was added, with its weight; None where there was none, as in all
    records from before there were priors."""
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    """The intents that exist."""
    n: Annotated[int, Field(ge=1)]
    """Answers that were fitted on."""
    n_without_probability: Annotated[int, Field(ge=0)]
    """Answers that were left out, because they name no intent."""
    temperature: Annotated[float, Field(gt=0)]
    """Divides the logarithms of the intents' probabilities; above 1 the model is too sure."""
    slope: Annotated[float, Field(gt=0)]
    intercept: float
    """Of the line through the log-odds of the tempered probability."""
    out_of_scope: OperatingPoint | None
    """None where the data has too few questions in scope to bound false alarms."""
    created_at: AwareDatetime

    def decide(self, probabilities: Mapping[str, float], intent: str) -> Decision:
        """Judge an answer.

        Args:
            probabilities: Of the intents, as `intent_probabilities` returns them.
            intent: The one that the answer names.
        """
        tempered = temper(probabilities, self.temperature)
        point = self.out_of_scope
        off_topic = 0.0 if point is None else tempered.get(point.label, 0.0)
        return Decision(
            confidence=line(tempered.get(intent, 0.0), self.slope, self.intercept),
            out_of_scope_probability=off_topic,
            out_of_scope=None if point is None else off_topic >= point.threshold,
        )

    def sha256(self) -> str:
        """Return the hash of the file that the record is kept in."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """Return the content of its file."""
        # Without a prior it is what it was before there were priors, so that its hash stays.
        absent = {"prior_sha256"} if self.prior_sha256 is None else None
        return (self.model_dump_json(indent=2, exclude=absent) + "\n").encode()


def temper(probabilities: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Return probabilities to the power of 1 / temperature, divided by their sum."""
    logs = {label: math.log(p) / temperature for label, p in probabilities.items() if p > 0}
    peak = max(logs.values(), default=0.0)
    weights = {label: math.exp(value - peak) for label, value in logs.items()}
    total = math.fsum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


def line(probability: float, slope: float, intercept: float) -> float:
    """Return the probability whose log-odds are a line of those of another one."""
    p = min(max(probability, EDGE), 1.0 - EDGE)
    odds = slope * (math.log(p) - math.log1p(-p)) + intercept
    return 1.0 / (1.0 + math.exp(-odds)) if odds > 0 else math.exp(odds) / (1.0 + math.exp(odds))


def calibration_path(model: Path) -> Path:
    """Return where a model's calibration lies: `a.Q4_K_M.gguf` -> `a.calibration.json`."""
    return model.with_name(model.name.split(".", 1)[0] + _SUFFIX)


def write_calibration(calibration: IntentCalibration, path: Path) -> None:
    """Write a record, whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, calibration.to_json())


def read_calibration(path: Path) -> IntentCalibration:
    """Read a record.

    Raises:
        BadInput: If it is missing, newer than this code, or breaks a rule.
    """
    try:
        return IntentCalibration.model_validate_json(path.read_bytes())
    except OSError as err:
        raise BadInput(f"Cannot read the calibration {str(path)!r}: {err.strerror}") from err
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(
            f"{str(path)!r} is no calibration: {where}: {first['msg']}",
            "write it again: carril eval calibrate",
        ) from err


def find_calibrations(model_sha256: str, folders: Iterable[Path]) -> list[IntentCalibration]:
    """Return the calibrations of a model file that lie in the folders, whatever their prior.

    Raises:
        BadInput: If one of the records there is broken.
    """
    paths = [path for folder in folders for path in sorted(folder.glob(f"*{_SUFFIX}"))]
    return [c for c in map(read_calibration, paths) if c.model_sha256 == model_sha256]


def with_prior(prior_sha256: str | None) -> str:
    """Return `with the intent prior ...`, or that there was none, for messages."""
    if prior_sha256 is None:
        return "without an intent prior"
    return f"with the intent prior {prior_sha256}"
