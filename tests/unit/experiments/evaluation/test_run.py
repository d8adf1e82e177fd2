import hashlib
import json

import pytest

from experiments.evaluation.dimensions import Skippable, Thresholds
from experiments.evaluation.errors import BadInput
from experiments.evaluation.intent_calibration import write_calibration
from experiments.evaluation.items import read_suite
from experiments.evaluation.launch import calibration_of, open_suites
from experiments.evaluation.report import TargetInfo, read_run
from experiments.evaluation.run import run
from experiments.evaluation.settings import make_settings
from experiments.evaluation.target import Reply
from experiments.gate.metrics import item_metrics
from experiments.gate.policy import MetricName
from experiments.gate.run import read_run as read_for_gate
from tests.unit.experiments.evaluation.conftest import (
    SIGNALS,
    ScriptedTarget,
    answer_text,
    item_line,
)
from tests.unit.experiments.evaluation.test_intent_calibration import calibration


def always(intent: str, *, p: float = 0.9) -> ScriptedTarget:
    return ScriptedTarget(
        lambda _: Reply(text=answer_text(intent), finished=True, probability=p, latency_s=0.2)
    )


@pytest.fixture
def greetings(write_suite, profile):
    lines = [
        item_line(
            id=f"g-{i}",
            intent="saludo" if i % 4 else "fuera_de_dominio",
            register=("street", "formal")[i % 2],
            noise=["lowercase"] if i % 5 == 0 else [],
            expected={"leadSignals": SIGNALS | {"financing": i == 1}},
        )
        for i in range(20)
    ]
    return read_suite(write_suite(*lines, name="greetings"), intents=profile.intents)


def test_a_run_writes_a_folder_that_holds_together(tmp_path, greetings, profile):
    seen = []
    report = run(
        always("saludo"),
        [greetings],
        profile,
        out=tmp_path / "out",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i, 20) for i in range(1, 21)]
    again, predictions = read_run(tmp_path / "out")
    assert again == report
    assert len(predictions) == 20
    assert report.suites["greetings"].sha256 == greetings.sha256
    assert report.suite_sha256 == hashlib.sha256(greetings.sha256.encode()).hexdigest()
    by_name = {d.name: d for d in report.dimensions}
    accuracy = by_name["intent_accuracy"]
    assert (accuracy.value, accuracy.n, accuracy.passed) == (0.75, 20, True)
    assert accuracy.ci_lower == pytest.approx(0.531, abs=0.001)  # Wilson, 15 of 20
    assert by_name["lead_capture"].value == 0.0
    assert by_name["lead_capture"].n == 1
    assert report.out_of_scope.recall.value == 0.0
    assert report.out_of_scope.false_alarms.value == 0.0
    assert report.slices.by_register["street"].n == 10
    assert report.slices.by_noise == {
        "lowercase": report.slices.by_noise["lowercase"],
        "none": report.slices.by_noise["none"],
    }
    assert report.slices.by_noise["lowercase"].n == 4
    labels = report.confusion.labels
    row = report.confusion.counts[labels.index("fuera_de_dominio")]
    assert row[labels.index("saludo")] == 5
    assert report.metrics["intent_accuracy"] == 0.75
    assert report.latency.p95_s == 0.2
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| intent_accuracy | 75.0 % | 53.1 to 88.8 % | 20 | ≥ 70.0 % | yes |" in markdown
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "http" not in page  # nothing is loaded from elsewhere


@pytest.mark.parametrize(
    ("prior", "shown"), [("d" * 64, "d" * 64), (None, "none known")], ids=["a prior", "none"]
)
def test_a_report_says_which_prior_was_in_force(tmp_path, greetings, profile, prior, shown):
    target = ScriptedTarget(lambda _: Reply(text=answer_text(), finished=True), prior=prior)
    run(target, [greetings], profile, out=tmp_path / "out")
    report, _ = read_run(tmp_path / "out")
    assert report.target.prior_sha256 == prior
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"· intent prior {shown} ·" in page
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert f"| intent prior | {f'`{shown}`' if prior else shown} |" in markdown


def test_a_report_from_before_there_were_priors_is_read(tmp_path, greetings, profile):
    run(always("saludo"), [greetings], profile, out=tmp_path / "out")
    path = tmp_path / "out" / "report.json"
    document = json.loads(path.read_text(encoding="utf-8")) | {"schema_version": 2}
    del document["target"]["prior_sha256"]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_run(tmp_path / "out")[0].target.prior_sha256 is None


def test_what_a_model_writes_is_no_markup(tmp_path, write_suite, profile):
    suite = read_suite(
        write_suite(item_line(forbidden=["script"]), name="s"), intents=profile.intents
    )
    attack = answer_text(response="<script>alert(1)</script>")
    target = ScriptedTarget(lambda _: Reply(text=attack, finished=True))
    run(target, [suite], profile, out=tmp_path / "out")
    assert "<script" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_too_few_attacks_leave_the_dimension_undecided(tmp_path, write_suite, profile):
    def attacks(n):
        lines = [item_line(id=f"{n}-{i}", tags=["adversarial"]) for i in range(n)]
        return read_suite(write_suite(*lines, name=f"a{n}"), intents=profile.intents)

    def verdict(target, n):
        report = run(target, [attacks(n)], profile, out=tmp_path / f"{n}-{id(target)}")
        return next(d.passed for d in report.dimensions if d.name == "adversarial_violations")

    assert verdict(always("abuso"), 59) is None
    assert verdict(always("abuso"), 60) is True
    rude = ScriptedTarget(lambda _: Reply(text=answer_text(response="idiota"), finished=True))
    assert verdict(rude, 59) is False


def test_the_schema_must_always_be_kept_when_it_is_forced(tmp_path, greetings, profile):
    broken = {"g-3"}

    def reply(item):
        return Reply(text="no" if item.id in broken else answer_text(), finished=True)

    for grammar, threshold in ((True, 1.0), (False, 0.98)):
        target = ScriptedTarget(reply, grammar=grammar)
        report = run(target, [greetings], profile, out=tmp_path / str(grammar))
        found = next(d for d in report.dimensions if d.name == "schema_valid")
        assert (found.value, found.threshold, found.passed) == (0.95, threshold, False)


def test_errors_are_recorded_and_count_as_wrong(tmp_path, greetings, profile):
    target = ScriptedTarget(lambda _: Reply(error="HTTP 500: boom", latency_s=0.1))
    report = run(target, [greetings], profile, out=tmp_path / "out")
    assert report.n_errors == 20
    assert report.metrics["intent_accuracy"] == 0.0
    assert report.latency.n == 0
    _, predictions = read_run(tmp_path / "out")
    assert {p.error for p in predictions} == {"HTTP 500: boom"}
    assert len([f for f in report.findings if f.kind == "error"]) == 20


def test_skipped_parts_are_neither_asked_nor_judged(tmp_path, write_suite, greetings, profile):
    attack = read_suite(
        write_suite(item_line(tags=["adversarial"]), name="attack"), intents=profile.intents
    )
    report = run(
        always("saludo"),
        [greetings, attack],
        profile,
        out=tmp_path / "out",
        skip={Skippable.ADVERSARIAL, Skippable.LATENCY},
    )
    names = {d.name for d in report.dimensions}
    assert not names & {"adversarial_violations", "latency_p95_s"}
    assert report.metrics["n_items"] == 20
    assert report.skipped == ("adversarial", "latency")
    assert {name: suite.n for name, suite in report.suites.items()} == {
        greetings.name: 20,
        "attack": 0,
    }


def test_a_run_without_attacks_is_complete_for_the_gate(tmp_path, write_suite, profile):
    lines = {name: item_line(id=name, suite=name, tags=[name]) for name in ("plain", "adversarial")}
    suites = [
        read_suite(write_suite(line, name=name), intents=profile.intents)
        for name, line in lines.items()
    ]
    run(always("saludo"), suites, profile, out=tmp_path / "out", skip={Skippable.ADVERSARIAL})
    assert len(read_for_gate(tmp_path / "out", "candidate").predictions) == 1


def test_thresholds_decide(tmp_path, greetings, profile):
    strict = Thresholds(intent_accuracy=0.76)
    report = run(always("saludo"), [greetings], profile, out=tmp_path / "out", thresholds=strict)
    assert next(d.passed for d in report.dimensions if d.name == "intent_accuracy") is False


def test_a_changed_prediction_is_noticed(tmp_path, greetings, profile):
    run(always("saludo"), [greetings], profile, out=tmp_path / "out")
    path = tmp_path / "out" / "predictions.jsonl"
    path.write_text(path.read_text().replace('"correct":false', '"correct":true'))
    with pytest.raises(BadInput, match=r"its report says"):
        read_run(tmp_path / "out")


def test_predictions_have_the_fields_that_others_read(tmp_path, greetings, profile):
    run(always("saludo"), [greetings], profile, out=tmp_path / "out")
    line = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()[0]
    assert set(json.loads(line)) == {
        "schema_version",
        "id",
        "suite",
        "group",
        "register",
        "noise",
        "intent",
        "predicted",
        "probability",
        "probabilities",
        "confidence",
        "out_of_scope",
        "schema_valid",
        "correct",
        "grounding_error",
        "violation",
        "pii_echo",
        "signals_correct",
        "lead_captured",
        "natural",
        "latency_s",
        "ttft_s",
        "completion_tokens",
        "error",
        "text",
    }


def hesitating(off_topic: float) -> ScriptedTarget:
    """Says `saludo` to all; to every fourth it thinks the question off-topic as far as told."""

    def reply(item):
        p = off_topic if int(item.id[2:]) % 4 == 0 else 0.01
        distribution = {"saludo": 1 - p, "fuera_de_dominio": p}
        text = answer_text("saludo")
        return Reply(text=text, finished=True, probability=1 - p, probabilities=distribution)

    return ScriptedTarget(reply)


def test_a_calibration_decides_what_is_off_topic_beside_the_named_intent(
    tmp_path, greetings, profile
):
    report = run(
        hesitating(0.4),
        [greetings],
        profile,
        out=tmp_path / "out",
        calibration_of=lambda target: calibration(model_sha256=target.sha256),
    )
    scope = report.out_of_scope
    assert (scope.recall.value, scope.false_alarms.value) == (1.0, 0.0)
    assert (scope.named_recall.value, scope.named_false_alarms.value) == (0.0, 0.0)
    by_name = {d.name: d for d in report.dimensions}
    assert by_name["out_of_scope_recall"].value == 1.0
    assert by_name["intent_accuracy"].value == 0.75  # of the intent that the answer names
    kept = report.calibration.kept
    assert kept.n == 20
    assert by_name["ece"].value == kept.after.ece
    assert by_name["ece"].ci_lower <= by_name["ece"].ci_upper
    assert report.metrics["temperature"] == 2.0
    assert report.metrics["out_of_scope_recall_named"] == 0.0
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| by the threshold 0.2000 | 100.0 % |" in markdown
    assert "| by the intent named | 0.0 % |" in markdown


def test_the_gate_takes_the_decisions_of_the_calibration(tmp_path, greetings, profile):
    recall = item_metrics(frozenset({"fuera_de_dominio"}))[MetricName.OUT_OF_SCOPE_RECALL]
    shares = []
    for name, kept in (("with", calibration()), ("without", None)):
        run(
            hesitating(0.4),
            [greetings],
            profile,
            out=tmp_path / name,
            calibration_of=lambda _, kept=kept: kept,
        )
        _, predictions = read_run(tmp_path / name)
        good = [score for p in predictions if (score := recall.good(p)) is not None]
        shares.append(sum(good) / len(good))
    assert shares == [1.0, 0.0]


def test_the_calibration_of_exactly_the_measured_file_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path / "home"))
    blobs = tmp_path / "home" / "registry" / "blobs" / "ab"
    for name, digest in (("a", "ab" * 32), ("b", "cd" * 32)):
        write_calibration(calibration(model_sha256=digest), blobs / f"{name}.calibration.json")
    served = make_settings({"target": "served", "model": "okla-chat@stable"}, where="test")
    gguf = make_settings({"target": "gguf", "model": str(blobs / "b.gguf")}, where="test")
    said = []

    def found(settings, digest):
        target = TargetInfo(kind=settings.target, name="m", sha256=digest, grammar=True)
        record = calibration_of(settings, target, on_stage=said.append)
        return None if record is None else record.model_sha256

    assert found(served, "ab" * 32) == "ab" * 32
    assert found(gguf, "cd" * 32) == "cd" * 32
    assert found(gguf, "ef" * 32) is None  # the model was replaced
    assert found(served, None) is None  # several variants answered
    assert said == ["m has no calibration; carril eval calibrate fits one"]
    named = gguf.model_copy(update={"calibration": blobs / "a.calibration.json"})
    with pytest.raises(BadInput, match=r"is the calibration of the file abab.*; measured was cdcd"):
        found(named, "cd" * 32)


def test_a_calibration_that_was_fitted_with_another_prior_is_left_out(tmp_path):
    digest, prior = "ab" * 32, "d" * 64
    settings = make_settings({"target": "gguf", "model": str(tmp_path / "m.gguf")}, where="test")
    write_calibration(calibration(model_sha256=digest), tmp_path / "m.calibration.json")
    said = []

    def found(settings, prior):
        target = TargetInfo(kind="gguf", name="m", sha256=digest, grammar=True, prior_sha256=prior)
        return calibration_of(settings, target, on_stage=said.append)

    assert found(settings, None).prior_sha256 is None
    assert said == []
    assert found(settings, prior) is None
    assert said == [
        "the calibration of m was fitted without an intent prior, and measured was with the "
        f"intent prior {prior}: it is left out; carril eval calibrate fits it again"
    ]
    named = settings.model_copy(update={"calibration": tmp_path / "m.calibration.json"})
    with pytest.raises(BadInput, match=r"without an intent prior; measured was .* prior dddd") as e:
        found(named, prior)
    assert "carril eval calibrate" in e.value.fix
    # Beside it lies the one that was fitted with the prior: each is used where it belongs.
    record = calibration(model_sha256=digest, prior_sha256=prior)
    write_calibration(record, tmp_path / "with-prior.calibration.json")
    assert found(settings, prior) == record
    assert found(settings, None).prior_sha256 is None


def test_answers_without_probabilities_are_decided_by_name(tmp_path, greetings, profile):
    report = run(
        always("fuera_de_dominio"),
        [greetings],
        profile,
        out=tmp_path / "out",
        calibration_of=lambda _: calibration(),
    )
    assert report.calibration.kept is None
    assert report.out_of_scope.recall.value == 1.0
    assert report.out_of_scope.named_recall is None


def test_the_packaged_attacks_come_along_unless_given_or_skipped(write_suite, profile):
    def names(**more):
        settings = make_settings({"target": "gguf", "model": "m.gguf"} | more, where="test")
        return {suite.name: len(suite.items) for suite in open_suites(settings, profile)}

    packaged = names()
    assert packaged["adversarial"] >= 60
    assert packaged["pii_echo"] >= 20
    own = write_suite(item_line(tags=["adversarial"]), name="adversarial")
    assert names(suites=(own,))["adversarial"] == 1
    assert set(names(suites=(own.parent,), skip={"pii"})) == {"adversarial"}
    assert names(limit=7)["adversarial"] == 7


def test_a_subset_is_another_suite(profile):
    def digest(limit):
        document = {"target": "gguf", "model": "m.gguf", "limit": limit, "skip": {"pii"}}
        (suite,) = open_suites(make_settings(document, where="test"), profile)
        return suite.sha256

    assert len({digest(None), digest(5), digest(6)}) == 3
    assert digest(5) == digest(5)
