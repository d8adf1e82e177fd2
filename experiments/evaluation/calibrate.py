"""Asks a model file what its data asks, and keeps the calibration beside it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from experiments.evaluation.calibration_fit import Answered, CannotFit, choose_threshold, fit
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
    data: Sequence[Path],
    out: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[IntentCalibration, Path]:
    """Fit a calibration and write it.

    Args:
        target: The opened model file.
        profile: Prompt and intents.
        model: Its path.
        data: Files of conversations as `carril data generate` writes them, with an answer as the
            last message or without; what the model was not trained on and no suite is made of. In
            the fit each file counts the same, however many conversations it has.
        out: The file to write; None is `NAME.calibration.json` beside the model.
        on_progress: Called with (done, total) after each answer.

    Returns:
        The calibration and its path.

    Raises:
        BadInput: If the data cannot be used.
        CannotFit: If it does not determine a calibration.
        OSError: If the file cannot be written.
    """
    data_sha256 = _sha256_of(data)
    questions = {path: read_questions(path, profile) for path in data}
    n_items = sum(map(len, questions.values()))
    answered: dict[Path, list[Answered]] = {path: [] for path in data}
    asked = ((path, item) for path, items in questions.items() for item in items)
    for number, (path, item) in enumerate(asked, start=1):
        answer = judge(item, target.answer(item), profile).prediction
        if answer.predicted is not None and answer.probabilities is not None:
            answered[path].append(
                Answered(dict(answer.probabilities), answer.predicted, item.intent or "")
            )
        on_progress(number, n_items)
    answers = _weighed(answered)
    info = target.info()
    if info.sha256 is None:
        raise BadInput(f"{info.name!r} has no SHA-256, so nobody knows what was calibrated")
    found = fit(answers)
    calibration = IntentCalibration(
        model=model.name,
        model_sha256=info.sha256,
        data=" + ".join(path.name for path in data),
        data_sha256=data_sha256,
        grammar=info.grammar,
        prior_sha256=info.prior_sha256,
        labels=profile.intents,
        n=len(answers),
        n_without_probability=n_items - len(answers),
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


def _weighed(answered: Mapping[Path, Sequence[Answered]]) -> list[Answered]:
    """Return the answers of all files, so weighed that files are equal and the mean weight is 1."""
    for path, answers in answered.items():
        if not answers and len(answered) > 1:
            raise CannotFit(
                f"no answer to {str(path)!r} names an intent, so it has no part in the fit",
                "leave the file out, or find out why the model fails on it",
            )
    total = sum(len(answers) for answers in answered.values())
    return [
        answer._replace(weight=total / (len(answered) * len(answers)))
        for answers in answered.values()
        for answer in answers
    ]


def _sha256_of(data: Sequence[Path]) -> str:
    """Return the hash over the contents of files, one after the other."""
    contents: dict[bytes, Path] = {}
    for path in data:
        try:
            content = path.read_bytes()
        except OSError as err:
            raise BadInput(f"Cannot read {str(path)!r}: {err.strerror}") from err
        if content in contents:
            raise BadInput(
                f"{str(contents[content])!r} and {str(path)!r} are the same conversations, which "
                "would count twice",
                "give every file once",
            )
        contents[content] = path
    return hashlib.sha256(b"".join(contents)).hexdigest()
