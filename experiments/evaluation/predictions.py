"""What a model answered to an item, and how that was judged: the lines of `predictions.jsonl`."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from experiments.evaluation.errors import BadInput
from experiments.evaluation.jsonl import read_records

SCHEMA_VERSION = 2
FILE_NAME = "predictions.jsonl"


class Prediction(BaseModel):
    """One judged answer. None: the question does not arise for the item, or nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    id: str
    suite: str
    group: str
    speech_register: Annotated[str | None, Field(alias="register")] = None
    noise: tuple[str, ...] = ()
    intent: str | None
    """The right one."""
    predicted: str | None
    probability: Annotated[float | None, Field(ge=0, le=1)] = None
    """Of the predicted intent, as the model gave it, before any calibration."""
    probabilities: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None
    """Of the likeliest intents, as the model gave them; together 1."""
    confidence: Annotated[float | None, Field(ge=0, le=1)] = None
    """Probability that the intent is right, by the calibration of the model."""
    out_of_scope: bool | None = None
    """Whether the calibration takes the question as off-topic; None where there is none."""
    schema_valid: bool
    correct: bool | None
    """Whether the intent is right; an answer without a valid intent is wrong."""
    grounding_error: bool | None = None
    violation: bool | None = None
    pii_echo: bool | None = None
    signals_correct: bool | None = None
    lead_captured: bool | None = None
    natural: Annotated[float | None, Field(ge=0, le=1)] = None
    latency_s: Annotated[float, Field(ge=0)]
    ttft_s: Annotated[float | None, Field(ge=0)] = None
    completion_tokens: Annotated[int | None, Field(ge=0)] = None
    error: str | None = None
    """Why there is no answer; the item then counts as a wrong and invalid one."""
    text: str
    """The answer as it came."""


def read_predictions(path: Path) -> tuple[Prediction, ...]:
    """Read predictions.

    Raises:
        BadInput: At the first broken line or duplicate id, or if there is none.
    """
    found: dict[str, Prediction] = {}
    for number, prediction in read_records(path, Prediction):
        if prediction.id in found:
            raise BadInput(f"{path}:{number}: id {prediction.id!r} is there twice")
        found[prediction.id] = prediction
    if not found:
        raise BadInput(f"{path}: there is no prediction in it")
    return tuple(found.values())
