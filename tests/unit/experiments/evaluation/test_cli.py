import json

import pytest

from cluster.cli.main import run as carril
from tests.unit.experiments.evaluation.conftest import item_line


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path / "home"))


@pytest.fixture
def train(tmp_path):
    pytest.importorskip("sklearn")
    phrases = {
        "saludo": ["klk manito", "hola buenas", "saludos mi gente", "buenas tardes hola"],
        "fotos_video": ["mándame fotos", "tiene video de la guagua", "fotos del carro", "un video"],
    }
    path = tmp_path / "train.jsonl"
    lines = [
        json.dumps({"intent": i, "messages": [{"role": "user", "content": t}]})
        for i, texts in phrases.items()
        for t in texts
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def suite(write_suite):
    return write_suite(
        item_line(id="1", text="hola klk", intent="saludo", register="street"),
        item_line(id="2", text="mándame un video", intent="fotos_video"),
        item_line(id="3", text="fotos de la guagua", intent="fotos_video"),
        name="mini",
    )


@pytest.mark.parametrize(
    ("chosen", "name"),
    [([], "tfidf_svm"), (["--baseline-model", "logreg"], "tfidf_logreg")],
    ids=["by default", "logreg"],
)
def test_a_classifier_is_measured_and_stands_in_its_own_table(
    train, suite, tmp_path, capfd, chosen, name
):
    out = tmp_path / "out"
    arguments = ["--baseline", "--train", str(train), "--suite", str(suite), "--out", str(out)]
    code = carril(["eval", "run", *arguments, *chosen, "--skip-calibration", "--json"])
    printed = capfd.readouterr()
    report = json.loads(printed.out)
    assert (report["target"]["kind"], report["target"]["name"]) == ("baseline", name)
    assert report["metrics"]["intent_accuracy"] == 1.0
    rows = {row["name"]: row["accuracy"]["value"] for row in report["baselines"]}
    assert rows == {"tfidf_svm": 1.0, "tfidf_logreg": 1.0, "majority": pytest.approx(1 / 3)}
    assert {row["n_trained"] for row in report["baselines"]} == {8}
    assert "learn from 8 messages" in printed.err
    assert "100 %" in printed.err
    markdown = (out / "report.md").read_text(encoding="utf-8")
    assert "| tfidf_svm | 100.0 % | 43.9 to 100.0 % | 100.0 % | 100.0 % | 8 messages |" in markdown
    assert "<td>8 messages</td>" in (out / "report.html").read_text(encoding="utf-8")
    assert sorted(p.name for p in out.iterdir()) == [
        "predictions.jsonl",
        "report.html",
        "report.json",
        "report.md",
    ]
    # No attack was asked, so nothing is known about attacks.
    assert code == 5


def test_the_svm_is_the_one_that_a_profile_would_get(train):
    from experiments.evaluation.classifiers import fit_classifier
    from experiments.evaluation.labelled_texts import read_training_texts
    from experiments.intent_prior.fit import fit_prior
    from experiments.intent_prior.prior import IntentPrior

    data = read_training_texts(train)
    prior = IntentPrior(fit_prior(data, data).table)
    model = fit_classifier("svm", data)
    asked = ["hola klk", "mándame un video", "algo que nadie dijo"]
    best = [prior.labels[prior.scores(text).argmax()] for text in asked]
    assert model.predict(asked) == best == [model.best(text)[0] for text in asked]
    assert 0.5 <= model.best("mándame un video")[1] <= 1.0  # of two intents


def test_a_missing_model_is_noticed_before_anything_learns(train, suite, capfd, monkeypatch):
    def too_early(*_):
        raise AssertionError("a classifier was fitted")

    monkeypatch.setattr("experiments.evaluation.baselines.fit_classifier", too_early)
    arguments = ["--gguf", "missing.gguf", "--train", str(train), "--suite", str(suite)]
    assert carril(["eval", "run", *arguments]) == 2
    assert "missing.gguf" in capfd.readouterr().err


def test_a_folder_with_a_report_is_not_written_over(train, suite, tmp_path, capfd):
    arguments = ["--baseline", "--train", str(train), "--suite", str(suite), "--out", str(tmp_path)]
    (tmp_path / "report.json").write_text("{}")
    assert carril(["eval", "run", *arguments]) == 2
    assert "already" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give one of --model"),
        (["--model", "m", "--gguf", "f"], 2, "give one of --model"),
        (["--gguf", "missing.gguf"], 2, "missing.gguf"),
        (["--baseline"], 2, "needs train"),
        (["--baseline", "--baseline-model", "forest"], 2, "baseline_model: Input should be 'svm'"),
        (["--gguf", "f", "--baseline-model", "svm"], 2, "which classifier --baseline measures"),
        (["--config", "missing.yaml"], 2, "missing.yaml"),
        (["--model", "okla-chat", "--url", "http://127.0.0.1:9"], 3, "Nothing answers"),
    ],
)
def test_bad_input_is_named(arguments, code, message, capfd):
    assert carril(["eval", "run", *arguments]) == code
    assert message in capfd.readouterr().err


def test_a_broken_suite_is_named_with_its_line(write_suite, capfd):
    path = write_suite(item_line(), "{", name="bad")
    assert carril(["eval", "run", "--gguf", "x.gguf", "--suite", str(path)]) == 2
    assert f"{path}:2" in capfd.readouterr().err


def test_an_unknown_setting_is_named(tmp_path, capfd):
    path = tmp_path / "e.yaml"
    path.write_text("target: gguf\nmodel: m.gguf\nthreshold: {}\n")
    assert carril(["eval", "run", "--config", str(path)]) == 2
    assert "threshold" in capfd.readouterr().err


def test_metrics_of_a_file(tmp_path, capfd):
    path = tmp_path / "m.json"
    path.write_text('{"kind": "regression", "truth": [1, 2], "predicted": [1, 4]}')
    assert carril(["eval", "metrics", str(path)]) == 0
    assert json.loads(capfd.readouterr().out)["mse"] == 2.0
    path.write_text('{"kind": "regression", "truth": [1, 2], "predicted": [1]}')
    assert carril(["eval", "metrics", str(path)]) == 2
