"""Evaluation folders with known quality, written as `carril eval run` writes them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHA_A = "a" * 64
SHA_B = "b" * 64
INTENTS = ("saludo", "consultar_precio", "buscar_vehiculo", "agendar_visita", "fuera_de_dominio")
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """Which items of the golden suite a model gets right."""

    correct: Bools

    @property
    def n(self) -> int:
        return len(self.correct)


def related(base: Bools, difference: float, disagree: float, rng: np.random.Generator) -> Bools:
    """Answers of a model that differs from `base` on a share of items, net better by `difference`.

    Each item that `base` gets wrong turns right with one probability and each right one wrong with
    another, so that the expected share of disagreements is `disagree`.
    """
    gain, loss = (disagree + difference) / 2, (disagree - difference) / 2
    accuracy = base.mean()
    flip = rng.random(len(base)) < np.where(base, loss / accuracy, gain / (1 - accuracy))
    return base ^ flip


def prediction(
    number: int, *, correct: bool, intent: str, per_group: int = 1, **fields: object
) -> dict[str, object]:
    """One judged answer to an item of the golden suite."""
    wrong = next(label for label in INTENTS[:-1] if label != intent)
    return {
        "schema_version": 1,
        "id": f"golden-{number:06d}",
        "suite": "golden",
        "group": f"g{number // per_group}",
        "register": ("formal", "casual", "street")[number % 3],
        "noise": ["lowercase"] if number % 4 == 0 else [],
        "intent": intent,
        "predicted": intent if correct else wrong,
        "probability": 0.9,
        "schema_valid": True,
        "correct": correct,
        "grounding_error": False,
        "violation": False,
        "pii_echo": False,
        "signals_correct": True,
        "lead_captured": True,
        "natural": 0.8,
        "latency_s": 0.2 + number % 7 * 0.01,
        "ttft_s": 0.05,
        "completion_tokens": 50,
        "error": None,
        "text": "{}",
    } | fields


def golden(correct: Sequence[bool] | Bools, per_group: int = 1) -> list[dict[str, object]]:
    """Answers to the golden suite; every fifth item is out of scope."""
    return [
        prediction(number, correct=bool(right), intent=INTENTS[number % 5], per_group=per_group)
        for number, right in enumerate(correct)
    ]


def write_run(
    folder: Path,
    predictions: Sequence[dict[str, object]],
    *,
    sha256: str | None = SHA_A,
    kind: str = "gguf",
    version: str = "2.0.0",
    suite_sha256: str = "c" * 64,
    n: int | None = None,
    prior: str | None = None,
) -> Path:
    """Write `report.json` and `predictions.jsonl`."""
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in predictions)
    (folder / "predictions.jsonl").write_text(lines, encoding="utf-8")
    rate = {"value": None, "n": 0}
    report = {
        "schema_version": 1 if prior is None else 3,
        "created_at": "2026-05-01T12:00:00+00:00",
        "target": {
            "kind": kind,
            "name": "okla-chat",
            "version": version,
            "sha256": sha256,
            "grammar": False,
        }
        | ({} if prior is None else {"prior_sha256": prior}),
        "suites": {"golden": {"sha256": suite_sha256, "n": len(predictions) if n is None else n}},
        "suite_sha256": suite_sha256,
        "predictions_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "n_errors": 0,
        "dimensions": [],
        "slices": {"by_suite": {}, "by_intent": {}, "by_register": {}, "by_noise": {}},
        "confusion": {"labels": [], "counts": []},
        "calibration": {
            "n": 0,
            "n_without_probability": 0,
            "raw": None,
            "temperature": None,
            "n_fit": 0,
            "heldout_raw": None,
            "heldout_fitted": None,
            "selective": [],
        },
        "latency": dict.fromkeys(
            ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s", "ttft_p95_s", "tokens_per_s")
        )
        | {"n": 0},
        "out_of_scope": {"recall": rate, "false_alarms": rate},
        "baselines": [],
        "metrics": {},
    }
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder
