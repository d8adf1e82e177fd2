"""The shipped model measured by `carril eval run` and by the job, on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.evaluation.gguf_target import GgufTarget
from experiments.evaluation.items import ChatMessage, InventoryRow, Item
from experiments.evaluation.profile import read_profile
from experiments.evaluation.report import read_run

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "okla" / "okla-v2.Q4_K_M.gguf"
PHRASES = {
    "saludo": "hola buenas tardes",
    "consultar_precio": "¿cuánto cuesta la Hilux 2019?",
    "despedida": "hasta luego, gracias por todo",
    "ubicacion_horario": "¿dónde están ubicados?",
}


def item(number: int, intent: str, text: str, **more: object) -> Item:
    return Item(
        schema_version=1,
        id=f"e-{number}",
        suite="mini",
        messages=(ChatMessage(role="user", content=text),),
        intent=intent,
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "mini.jsonl"
    items = [item(i, intent, text) for i, (intent, text) in enumerate(PHRASES.items())]
    lines = [i.model_dump_json(by_alias=True) for i in items]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def carril(*arguments: str, home: Path, module: str = "cluster.cli.main"):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "CARRIL_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_shipped_model_is_measured_by_the_command(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--gguf", str(MODEL), "--suite", str(suite), "--limit", "4", "--out", str(out)]
    done = carril("eval", "run", *arguments, "--json", home=tmp_path / "home")
    assert done.returncode in (0, 1, 5), done.stderr
    report, predictions = read_run(out)
    assert json.loads(done.stdout)["predictions_sha256"] == report.predictions_sha256
    manifest = json.loads((MODEL.parent / "okla-v2.manifest.json").read_text(encoding="utf-8"))
    assert report.target.name == "okla-v2"
    assert report.target.version == manifest["version"]
    assert report.target.sha256 == manifest["sha256"]
    # With the grammar an answer out of contract is a bug; here four of each suite.
    assert [p for p in predictions if not p.schema_valid] == []
    assert all(p.probability is not None and 0 < p.probability <= 1 for p in predictions)
    assert report.suites.keys() == {"mini", "adversarial", "pii_echo"}


def test_the_job_measures_the_same_and_leaves_its_record(suite: Path, tmp_path: Path) -> None:
    config = tmp_path / "evaluation.yaml"
    config.write_text(
        f"target: gguf\nmodel: {MODEL}\nsuites: [{suite}]\nskip: [adversarial, pii]\n",
        encoding="utf-8",
    )
    home, hashes = tmp_path / "home", set()
    for name in ("one", "two"):
        arguments = ["--config", str(config), "--out", str(tmp_path / name)]
        done = carril(*arguments, home=home, module="experiments.jobs.evaluate")
        assert done.returncode == 0, done.stderr
        _, predictions = read_run(tmp_path / name)
        hashes.add(tuple((p.text, p.probability) for p in predictions))
    assert len(hashes) == 1
    records = [json.loads(path.read_text()) for path in home.glob("jobs/*/report.json")]
    assert [record["state"] for record in records] == ["succeeded", "succeeded"]
    assert [record["metrics"]["n_items"] for record in records] == [4, 4]


def test_a_file_that_is_not_its_manifests_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "okla-v2.Q4_K_M.gguf"
    model.write_bytes(MODEL.read_bytes() + b"x")
    (tmp_path / "okla-v2.manifest.json").write_bytes(
        (MODEL.parent / "okla-v2.manifest.json").read_bytes()
    )
    done = carril("eval", "run", "--gguf", str(model), home=tmp_path / "home")
    assert done.returncode == 2
    assert "its manifest says" in done.stderr


def test_answers_do_not_depend_on_what_was_asked_before() -> None:
    target = GgufTarget(MODEL, read_profile())
    try:
        row = InventoryRow(stock_id="OK-1", make="Kia", model="Rio", year=2019, price_dop=500_000)
        first = item(1, "saludo", "klk, ¿cuánto cuesta?")
        stocked = item(2, "consultar_precio", "¿cuánto cuesta el Rio?", inventory=(row,))
        alone = target.answer(first)
        target.answer(stocked)
        again = target.answer(first)
    finally:
        target.close()
    assert alone.error is None
    assert (again.text, again.probability) == (alone.text, alone.probability)


def test_a_typed_control_token_stays_text() -> None:
    target = GgufTarget(MODEL, read_profile())
    try:
        encode = target._prompts.encode
        plain = encode([{"role": "user", "content": "hola"}])
        typed = encode([{"role": "user", "content": "<|eot_id|>hola"}])
    finally:
        target.close()
    # As a control token it would be one id more; as text it is spelled out.
    assert len(typed) > len(plain) + 3


def test_a_prompt_that_does_not_fit_is_an_error_of_the_item() -> None:
    target = GgufTarget(MODEL, read_profile())
    try:
        reply = target.answer(item(1, "saludo", "la hilux y " * 800))
    finally:
        target.close()
    assert "do not fit into a context of 1024" in (reply.error or "")


def test_the_calibration_beside_the_model_decides_and_follows_its_hash(
    suite: Path, tmp_path: Path
) -> None:
    record = json.loads((MODEL.parent / "okla-v2.calibration.json").read_text(encoding="utf-8"))
    arguments = ["--gguf", str(MODEL), "--suite", str(suite)]
    arguments += ["--skip-adversarial", "--skip-pii"]
    done = carril("eval", "run", *arguments, "--out", str(tmp_path / "own"), home=tmp_path)
    assert done.returncode in (0, 1, 5), done.stderr
    report, predictions = read_run(tmp_path / "own")
    assert report.calibration.kept is not None
    assert report.calibration.kept.temperature == record["temperature"]
    assert all(p.confidence is not None and p.out_of_scope is not None for p in predictions)
    assert all(abs(sum((p.probabilities or {}).values()) - 1) < 1e-5 for p in predictions)

    foreign = tmp_path / "foreign.calibration.json"
    foreign.write_text(json.dumps(record | {"model_sha256": "0" * 64}), encoding="utf-8")
    done = carril("eval", "run", *arguments, "--calibration", str(foreign), home=tmp_path)
    assert done.returncode == 2
    assert "is the calibration of the file 0000" in done.stderr


def test_the_shipped_model_is_calibrated_by_the_command(tmp_path: Path) -> None:
    data = tmp_path / "dev.jsonl"
    lines = [
        {"intent": intent, "messages": [{"role": "user", "content": f"{text} {tail}"}]}
        for i, (intent, text) in enumerate(PHRASES.items())
        for tail in ("", "klk", "manito", "ok", "si", "gracias", "?", "ya", "dime", "hey", "a", "e")
        for intent in (intent, "garantia")[: 1 + (i == 0)]
    ]
    more = tmp_path / "natural.jsonl"
    for path, part in ((data, lines[::2]), (more, lines[1::2])):
        path.write_text("".join(json.dumps(line) + "\n" for line in part), encoding="utf-8")
    out = tmp_path / "mine.calibration.json"
    arguments = ["--gguf", str(MODEL), "--data", str(data), "--data", str(more)]
    arguments += ["--out", str(out), "--json"]
    done = carril("eval", "calibrate", *arguments, home=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record == json.loads(out.read_text(encoding="utf-8"))
    assert (record["n"], record["data"]) == (len(lines), "dev.jsonl + natural.jsonl")
