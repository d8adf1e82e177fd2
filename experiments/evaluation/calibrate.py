"""Asks a model file what its data asks, and keeps the calibration beside it."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from experiments.evaluation.calibration_fit import Answered, choose_threshold, fit
from experiments.evaluation.errors import BadInput
from experiments.evaluation.intent_calibration import (
    IntentCalibration,
    calibration_path,
    write_calibration,
)
from experiments.evaluation.items import ChatMessage, Item
from experiments.evaluation.jsonl import read_records
from experiments.evaluation.profile import Profile
from experiments.evaluation.rates import OUT_OF_SCOPE
from experiments.evaluation.scoring import judge
from experiments.evaluation.target import Target


class _Conversation(BaseModel):
    """What is needed of a line of a dataset."""

    model_config = ConfigDict(frozen=True)

    messages: tuple[ChatMessage, ...]
    intent: str


def calibrate_model(
    target: Target,
    profile: Profile,
    *,
    model: Path,
    data: Path,
    out: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[IntentCalibration, Path]:
    """Fit a calibration and write it.

    Args:
        target: The opened model file.
        profile: Prompt and intents.
        model: Its path.
        data: Conversations as `carril data generate` writes them, the last message of each the
            answer; a split that the model was not trained on and no suite is made of.
        out: The file to write; None is `NAME.calibration.json` beside the model.
        on_progress: Called with (done, total) after each answer.

    Returns:
        The calibration and its path.

    Raises:
        BadInput: If the data cannot be used.
        CannotFit: If it does not determine a calibration.
        OSError: If the file cannot be written.
    """
    items = read_questions(data, profile)
    answers: list[Answered] = []
    for number, item in enumerate(items, start=1):
        answer = judge(item, target.answer(item), profile).prediction
        if answer.predicted is not None and answer.probabilities is not None:
            answers.append(
                Answered(dict(answer.probabilities), answer.predicted, item.intent or "")
            )
        on_progress(number, len(items))
    info = target.info()
    if info.sha256 is None:
        raise BadInput(f"{info.name!r} has no SHA-256, so nobody knows what was calibrated")
    found = fit(answers)
    calibration = IntentCalibration(
        model=model.name,
        model_sha256=info.sha256,
        data=data.name,
        data_sha256=hashlib.sha256(data.read_bytes()).hexdigest(),
        grammar=info.grammar,
        prior_sha256=info.prior_sha256,
        labels=profile.intents,
        n=len(answers),
        n_without_probability=len(items) - len(answers),
        temperature=found.temperature,
        slope=found.slope,
        intercept=found.intercept,
        out_of_scope=choose_threshold(answers, found.temperature, label=OUT_OF_SCOPE),
        created_at=datetime.now(UTC).replace(microsecond=0),
    )
    path = out or calibration_path(model)
    write_calibration(calibration, path)
    return calibration, path


def read_questions(path: Path, profile: Profile) -> Sequence[Item]:
    """Read the questions of a dataset file: each conversation without its last answer.

    Raises:
        BadInput: At the first line that is none, or has an unknown intent.
    """
    items = []
    for number, line in read_records(path, _Conversation):
        messages = line.messages
        if messages and messages[-1].role == "assistant":
            messages = messages[:-1]
        if not messages or messages[-1].role != "user":
            raise BadInput(f"{path}:{number}: no message of a customer stands before the answer")
        if line.intent not in profile.intents:
            raise BadInput(
                f"{path}:{number}: unknown intent {line.intent!r}",
                f"known intents: {', '.join(sorted(profile.intents))}",
            )
        items.append(
            Item(
                schema_version=1,
                id=f"{path.stem}-{number:06d}",
                suite=path.stem,
                messages=messages,
                intent=line.intent,
            )
        )
    if not items:
        raise BadInput(f"{path}: there is no conversation in it")
    return items
