"""Answers compared with those to write; lines that a resumed training keeps."""

import json
from pathlib import Path

from training.lora.dataset import Example, Turn
from training.lora.metrics import MetricsFile, StepMetrics, score_answers


def example(answer: str, register: str = "street") -> Example:
    turns = (Turn(role="user", content="klk"), Turn(role="assistant", content=answer))
    return Example(messages=turns, register=register)


def test_answers_count_by_keys_and_intent() -> None:
    target = '{"intent":"saludo","response":"x"}'
    answers = [
        '{"response":"y","intent":"saludo"}',  # another order is as good
        '{"intent":"despedida","response":"y"}',
        '{"intent":"saludo"}',
        '{"intent":"saludo","resp',
    ]
    scores = score_answers(
        [example(target), example(target, "formal"), example(target), example(target)],
        answers,
        [4, 4, 2, 2],
    )
    assert (scores.json_validity, scores.intent_accuracy) == (0.5, 0.25)
    assert scores.intent_accuracy_by_register == {"formal": 0.0, "street": 0.3333}
    assert scores.mean_tokens == 3.0


def test_plain_text_has_no_validity() -> None:
    scores = score_answers([example("hola")], ["hola"], [1])
    assert scores.json_validity is None
    assert scores.intent_accuracy is None


def line(step: int, loss: float = 1.0) -> StepMetrics:
    return StepMetrics(
        step=step, loss=loss, perplexity=2.0, learning_rate=0.1, grad_norm=1.0, n_tokens=8,
        tokens_per_second=1.0, peak_share=None,
    )  # fmt: skip


def test_a_resumed_training_drops_lines_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, first_step=0)
    for step in (1, 2, 3):
        first.append(line(step))
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    MetricsFile(path, first_step=2).append(line(3, loss=float("inf")))
    records = [json.loads(text) for text in path.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert records[-1]["loss"] is None  # JSON has no infinity
