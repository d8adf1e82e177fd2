"""`carril eval calibrate` and `confidence`, down to the files that they write and read."""

import hashlib
import io
import json
import math

import numpy as np
import pytest

from cluster.cli.main import run as carril
from experiments.evaluation.calibrate import calibrate_model, read_questions
from experiments.evaluation.calibration_fit import Answered, CannotFit, fit
from experiments.evaluation.errors import BadInput
from experiments.evaluation.intent_calibration import read_calibration, write_calibration
from experiments.evaluation.target import Reply
from tests.unit.experiments.evaluation.conftest import ScriptedTarget, answer_text
from tests.unit.experiments.evaluation.test_intent_calibration import calibration

LABELS = ("saludo", "consultar_precio", "fuera_de_dominio")


def conversation(intent: str, text: str = "klk") -> dict:
    said = {"role": "user", "content": text}
    return {"intent": intent, "messages": [said, {"role": "assistant", "content": "{}"}], "id": "x"}


@pytest.fixture
def write_data(tmp_path):
    def write(*lines: dict, name: str = "dev"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    return write


def test_a_model_is_calibrated_on_conversations(write_data, tmp_path, profile):
    rng = np.random.default_rng(4)
    honest = rng.dirichlet([0.5] * 3, size=400)
    data = write_data(*(conversation(str(rng.choice(LABELS, p=p))) for p in honest))
    told = iter((honest**2 / (honest**2).sum(axis=1, keepdims=True)).tolist())

    def reply(item):
        distribution = dict(zip(LABELS, next(told), strict=True))
        best = max(distribution, key=distribution.__getitem__)
        text = answer_text(best)
        return Reply(text=text, finished=True, probabilities=distribution)

    seen = []
    found, path = calibrate_model(
        ScriptedTarget(reply, prior="d" * 64),
        profile,
        model=tmp_path / "m.Q4_K_M.gguf",
        data=[data],
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert path == tmp_path / "m.calibration.json"
    assert read_calibration(path) == found
    assert found.temperature == pytest.approx(2.0, rel=0.15)
    assert found.out_of_scope.false_alarms_upper <= 0.05
    assert found.labels == profile.intents
    assert found.prior_sha256 == "d" * 64
    assert (found.model_sha256, found.n, seen[-1]) == ("a" * 64, 400, (400, 400))
    assert found.data == "dev.jsonl"
    assert found.data_sha256 == hashlib.sha256(data.read_bytes()).hexdigest()


def answered(sharpness: float, n: int) -> list[Answered]:
    """Answers whose probabilities, to the power of `1 / sharpness`, are exact."""
    rng = np.random.default_rng(n)
    found = []
    for honest in rng.dirichlet([0.5] * 3, size=n):
        told = dict(zip(LABELS, honest**sharpness / (honest**sharpness).sum(), strict=True))
        told = {label: float(p) for label, p in told.items()}
        intent = str(rng.choice(LABELS, p=honest))
        found.append(Answered(told, max(told, key=told.__getitem__), intent))
    return found


@pytest.fixture
def two_files(write_data):
    """Two files of different length, whose answers ask for different temperatures."""
    kinds = {"dev": answered(0.6, 120), "natural": answered(3.0, 480)}
    files = [
        write_data(
            *(conversation(a.intent, f"{name} {i}") for i, a in enumerate(told)),
            name=name,
        )
        for name, told in kinds.items()
    ]
    return files, kinds


def scripted(kinds):
    replies = {f"{name} {i}": a for name, told in kinds.items() for i, a in enumerate(told)}

    def reply(item):
        told = replies[item.messages[-1].content]
        text = answer_text(told.predicted)
        return Reply(text=text, finished=True, probabilities=told.probabilities)

    return ScriptedTarget(reply)


def test_each_file_counts_the_same_however_long_it_is(two_files, tmp_path, profile):
    files, kinds = two_files
    model = tmp_path / "m.gguf"
    found, _ = calibrate_model(scripted(kinds), profile, model=model, data=files)
    as_often = fit(kinds["dev"] * 4 + kinds["natural"])
    assert found.temperature == pytest.approx(as_often.temperature, rel=1e-3)
    assert (found.slope, found.intercept) == pytest.approx(
        (as_often.slope, as_often.intercept), rel=0.01, abs=0.01
    )
    pooled = fit(kinds["dev"] + kinds["natural"])
    assert abs(pooled.temperature - as_often.temperature) > 0.1
    assert found.data == "dev.jsonl + natural.jsonl"
    contents = b"".join(path.read_bytes() for path in files)
    assert found.data_sha256 == hashlib.sha256(contents).hexdigest()
    # The bound of false alarms is one of counts: every answer is one.
    point = found.out_of_scope
    assert (found.n, point.n_in_scope + point.n_out_of_scope) == (600, 600)


def test_the_command_takes_several_files(two_files, tmp_path, monkeypatch, capsys):
    files, kinds = two_files
    opened = "experiments.evaluation.gguf_target.GgufTarget"
    monkeypatch.setattr(opened, lambda *_, **__: scripted(kinds))
    named = [option for path in files for option in ("--data", str(path))]
    model = tmp_path / "m.Q4_K_M.gguf"
    assert carril(["eval", "calibrate", "--gguf", str(model), *named]) == 0
    told = capsys.readouterr().out
    record = read_calibration(tmp_path / "m.calibration.json")
    assert f"dev.jsonl + natural.jsonl  sha256 {record.data_sha256}" in told

    again = [*named, "--data", str(files[0])]
    assert carril(["eval", "calibrate", "--gguf", str(model), *again]) == 2
    assert "are the same conversations" in capsys.readouterr().err


def test_a_file_without_answers_has_no_half_of_the_say(two_files, write_data, tmp_path, profile):
    files, kinds = two_files
    model = tmp_path / "m.gguf"
    told = scripted(kinds)

    def failing_on_new(item):
        new = item.messages[-1].content == "new"
        return Reply(error="HTTP 500: boom") if new else told.answer(item)

    new = write_data(conversation("saludo", "new"), name="new")
    target = ScriptedTarget(failing_on_new)
    with pytest.raises(CannotFit, match=r"no answer to .*new\.jsonl' names an intent"):
        calibrate_model(target, profile, model=model, data=[*files, new])
    assert not list(tmp_path.glob("*.calibration.json"))


def test_nothing_is_written_where_nothing_can_be_fitted(write_data, tmp_path, profile):
    data = write_data(*[conversation("saludo")] * 100)
    distribution = {"saludo": 0.9, "abuso": 0.1}
    target = ScriptedTarget(
        lambda _: Reply(text=answer_text(), finished=True, probabilities=distribution)
    )
    with pytest.raises(CannotFit, match="100 right answers of 100"):
        calibrate_model(target, profile, model=tmp_path / "m.gguf", data=[data])
    failing = ScriptedTarget(lambda _: Reply(error="HTTP 500: boom"))
    with pytest.raises(CannotFit, match="0 right answers of 0"):
        calibrate_model(failing, profile, model=tmp_path / "m.gguf", data=[data])
    assert [p.name for p in tmp_path.iterdir()] == ["dev.jsonl"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"intent": "saludo"}, r"dev\.jsonl:1: messages"),
        (conversation("cantar"), r"dev\.jsonl:1: unknown intent 'cantar'"),
        (conversation("saludo") | {"messages": []}, r"dev\.jsonl:1: no message of a customer"),
    ],
)
def test_data_of_another_form_is_named(write_data, profile, line, reason):
    with pytest.raises(BadInput, match=reason):
        read_questions(write_data(line), profile)


def test_no_conversation_is_no_data(write_data, profile):
    with pytest.raises(BadInput, match="no conversation"):
        read_questions(write_data(), profile)


def completion() -> dict:
    """The response to a request with candidates, as the gateway writes it."""
    pieces = [('{"intent":"', 1.0), ("saludo", 0.9), ('"}', 1.0)]
    content = [
        {"token": t, "bytes": list(t.encode()), "logprob": math.log(p), "top_logprobs": []}
        for t, p in pieces
    ]
    others = (("saludo", 0.9), ("fuera_de_dominio", 0.1))
    for entry in content:
        entry["top_logprobs"] = [{"token": "?", "bytes": None, "logprob": -9.0}]
    content[1]["top_logprobs"] = [
        {"token": t, "bytes": list(t.encode()), "logprob": math.log(p)} for t, p in others
    ]
    return {"choices": [{"logprobs": {"content": content}}]}


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "m.calibration.json"
    write_calibration(calibration(), path)
    return path


def test_an_answer_gets_its_confidence_from_stdin(record, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(completion())))
    assert carril(["eval", "confidence", "--calibration", str(record)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "intent": "saludo",
        "confidence": pytest.approx(0.75),
        "out_of_scope_probability": pytest.approx(0.25),
        "out_of_scope": True,
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("no", "the answer is no JSON", id="no JSON"),
        pytest.param('{"error": {}}', "not a chat completion", id="an error"),
        pytest.param('{"choices": [{"logprobs": null}]}', "top_logprobs", id="no logprobs"),
        pytest.param(
            '{"choices": [{"logprobs": {"content": [{"token": "a"}]}}]}',
            "not a chat completion",
            id="another form",
        ),
    ],
)
def test_an_answer_without_probabilities_is_refused(record, tmp_path, capsys, text, reason):
    answer = tmp_path / "answer.json"
    answer.write_text(text, encoding="utf-8")
    assert carril(["eval", "confidence", "--calibration", str(record), str(answer)]) == 2
    assert reason in capsys.readouterr().err
