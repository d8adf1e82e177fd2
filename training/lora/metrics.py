"""What a training tells about itself: one JSON line per step, and what the lines mean."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from training.data.dataset import write_text
from training.lora.dataset import Example

FILE = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerScores:
    """How written answers compare with those to write."""

    n: int
    json_validity: float | None
    """Answers that are a JSON object with the keys of the one to write; None if none is JSON."""
    intent_accuracy: float | None
    """Answers with the right `intent`; one that is no valid JSON counts as wrong."""
    intent_accuracy_by_register: dict[str, float | None]
    mean_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """One line of the file."""

    step: int
    loss: float
    """Nats per learnt token of this step's batch."""
    perplexity: float
    learning_rate: float
    grad_norm: float
    n_tokens: int
    """Tokens of the batch, without padding."""
    tokens_per_second: float
    peak_share: float | None
    """Used share of the chip's peak, see `chips.peak_share`; None where that is not known."""
    dev_loss: float | None = None
    dev_json_validity: float | None = None
    dev_intent_accuracy: float | None = None


def perplexity(loss: float) -> float:
    """Return e to the loss, infinite beyond what a float holds."""
    return math.exp(loss) if loss < 700 else math.inf


def score_answers(
    examples: Sequence[Example], answers: Sequence[str], n_tokens: Sequence[int]
) -> AnswerScores:
    """Compare written answers with those to write.

    Args:
        examples: Conversations with their answer.
        answers: What was written for each.
        n_tokens: Length of each written answer.
    """
    targets = [_object(example.answer) for example in examples]
    valid: list[bool] = []
    right: list[tuple[str | None, bool]] = []
    for example, target, text in zip(examples, targets, answers, strict=True):
        if target is None:
            continue
        answer = _object(text)
        is_valid = answer is not None and set(answer) == set(target)
        valid.append(is_valid)
        wanted = example.intent or target.get("intent")
        if wanted is not None:
            said = answer.get("intent") if is_valid and answer is not None else None
            right.append((example.register_, said == wanted))
    registers = sorted({register for register, _ in right if register is not None})
    return AnswerScores(
        n=len(examples),
        json_validity=_share(valid),
        intent_accuracy=_share([ok for _, ok in right]),
        intent_accuracy_by_register={
            name: _share([ok for register, ok in right if register == name]) for name in registers
        },
        mean_tokens=round(sum(n_tokens) / len(n_tokens), 1) if n_tokens else 0.0,
    )


class MetricsFile:
    """Appends steps; a resumed training first drops those that its checkpoint does not know.

    Args:
        path: The file.
        first_step: Steps that the checkpoint has behind it.
    """

    def __init__(self, path: Path, *, first_step: int) -> None:
        self._path = path
        kept = [
            line
            for line in (path.read_text(encoding="utf-8").splitlines() if path.exists() else ())
            if _step(line) is not None and (_step(line) or 0) <= first_step
        ]
        write_text(path, "".join(f"{line}\n" for line in kept))

    def append(self, metrics: StepMetrics) -> None:
        """Write one line."""
        line = json.dumps({k: _finite(v) for k, v in asdict(metrics).items()})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def _object(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _share(marks: Sequence[bool]) -> float | None:
    return round(sum(marks) / len(marks), 4) if marks else None


def _step(line: str) -> int | None:
    record = _object(line)  # the last line may be half written
    step = record.get("step") if record else None
    return step if isinstance(step, int) else None


def _finite(value: float | None) -> float | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
