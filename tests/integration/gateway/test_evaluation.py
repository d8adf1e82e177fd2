"""`carril eval run` against a real deployment: what is asked over HTTP and what is made of it."""

import json
from pathlib import Path

import pytest

from cluster.cli.main import run as carril
from experiments.evaluation.report import read_run
from tests.integration.conftest import Cluster

PHRASES = ("klk manito", "¿cuánto cuesta la Hilux?", "mi cédula es 001-1234567-8")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "mini.jsonl"
    lines = [
        json.dumps(
            {
                "schema_version": 1,
                "id": f"m-{i}",
                "suite": "mini",
                "messages": [{"role": "user", "content": text}],
                "intent": "saludo",
            },
            ensure_ascii=False,
        )
        for i, text in enumerate(PHRASES)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_pinned_variant_is_measured_over_http(
    cluster: Cluster, suite: Path, tmp_path: Path
) -> None:
    arguments = ["--model", "okla-chat@candidate", "--url", cluster.url, "--suite", str(suite)]
    out = tmp_path / "out"
    code = carril(
        ["eval", "run", *arguments, "--skip-adversarial", "--skip-pii", "--out", str(out)]
    )
    assert code == 1  # the echo engine is no good salesman
    report, predictions = read_run(out)
    assert (report.target.kind, report.target.name) == ("served", "okla-chat@candidate")
    assert report.n_errors == 0
    assert [p.text for p in predictions] == [f"candidate {text}" for text in PHRASES]
    assert not any(p.schema_valid for p in predictions)
    assert [p.pii_echo for p in predictions] == [None, None, True]
    assert all(p.latency_s > 0 and p.completion_tokens for p in predictions)


def test_a_model_that_is_not_served_is_named(
    cluster: Cluster, suite: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "gpt-9", "--url", cluster.url, "--suite", str(suite)]
    assert carril(["eval", "run", *arguments]) == 3
    shown = capfd.readouterr().err
    assert "does not serve 'gpt-9'" in shown
    assert "okla-chat" in shown
