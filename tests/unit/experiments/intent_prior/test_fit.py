"""Fitting through the command, and against scikit-learn's own pipeline."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from cluster.cli.main import run as carril
from experiments.intent_prior.features import features_of
from experiments.intent_prior.prior import IntentPrior
from experiments.intent_prior.table import unpack

pytest.importorskip("sklearn")

SAID = {
    "saludo": (["hola", "buenas", "saludos", "klk"], ["", "mi gente", "manito", "a todos"]),
    "fotos_video": (["mándame fotos", "un video"], ["del carro", "de la jeepeta", "", "ya"]),
    "consultar_precio": (["cuánto cuesta", "qué precio tiene"], ["el carro", "la jeepeta", "eso?"]),
}


def lines(said: dict[str, tuple[list[str], list[str]]]) -> str:
    return "".join(
        json.dumps(
            {"intent": intent, "messages": [{"role": "user", "content": f"{a} {b}".strip()}]}
        )
        + "\n"
        for intent, (first, second) in said.items()
        for a, b in product(first, second)
    )


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    train, tune = tmp_path / "train.jsonl", tmp_path / "dev.jsonl"
    train.write_text(lines(SAID), encoding="utf-8")
    own = {
        "saludo": (["hola a ti", "klk la gente"], [""]),
        "fotos_video": (["tiene fotos?"], [""]),
        "consultar_precio": (["precio del carro", "cuánto cuesta la hilux"], [""]),
    }
    tune.write_text(lines(own), encoding="utf-8")
    return train, tune


def fit(files: tuple[Path, Path], out: Path, *more: str) -> int:
    train, tune = files
    arguments = ["--data", str(train), "--tune", str(tune), "--out", str(out)]
    return carril(["eval", "prior", *arguments, *more])


def test_the_command_fits_what_scikit_learn_would(files, tmp_path, capfd) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.svm import LinearSVC

    out = tmp_path / "profile" / "p.npz"
    assert fit(files, out, "--json") == 0
    figures = json.loads(capfd.readouterr().out)
    assert figures["n_tune"] == 5
    assert figures["tune_accuracy"] >= 0.8
    assert figures["size_bytes"] == out.stat().st_size

    # Its own pieces and weights; that its n-grams are ours, test_features says.
    least = {"words": 2, "pieces": 3, "sounds": 2, "company": 3, "stretches": 4}
    union = make_union(
        *(
            TfidfVectorizer(
                analyzer=lambda text, kind=kind: getattr(features_of(text), kind).elements(),
                min_df=min_df,
                sublinear_tf=True,
                dtype=np.float32,
            )
            for kind, min_df in least.items()
        )
    )
    pipeline = make_pipeline(union, LinearSVC(C=0.2, tol=1e-2, max_iter=300, random_state=0))
    rows = [json.loads(line) for line in files[0].read_text(encoding="utf-8").splitlines()]
    texts = [row["messages"][0]["content"] for row in rows]
    pipeline.fit(texts, [row["intent"] for row in rows])
    prior = IntentPrior(unpack(out.read_bytes(), where=str(out)))
    assert prior.labels == tuple(pipeline.classes_)
    asked = [*texts, "otra cosa", "precio de fotos", "¿Cuánto cuesta?"]
    ours = np.stack([prior.scores(text) for text in asked])
    # Bytes instead of single precision, and another order of the features in the solver.
    np.testing.assert_allclose(ours, pipeline.decision_function(asked), atol=0.05)


def test_the_same_files_give_the_same_bytes(files, tmp_path) -> None:
    for name in ("a.npz", "b.npz"):
        assert fit(files, tmp_path / name) == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_the_temperature_is_the_one_with_the_least_loss(files, tmp_path, capfd) -> None:
    assert fit(files, tmp_path / "p.npz", "--json") == 0
    figures = json.loads(capfd.readouterr().out)
    prior = IntentPrior(unpack((tmp_path / "p.npz").read_bytes(), where="p"))
    rows = [json.loads(line) for line in files[1].read_text(encoding="utf-8").splitlines()]
    logs = [prior.log_probabilities(r["messages"][0]["content"])[r["intent"]] for r in rows]
    assert -np.mean(logs) == pytest.approx(figures["tune_log_loss"], abs=1e-6)


def test_two_intents_are_enough(files, tmp_path) -> None:
    for path in files:
        kept = [line for line in path.read_text().splitlines() if "precio" not in line]
        path.write_text("\n".join(kept), encoding="utf-8")
    assert fit(files, tmp_path / "p.npz") == 0
    prior = IntentPrior(unpack((tmp_path / "p.npz").read_bytes(), where="p"))
    logs = prior.log_probabilities("hola manito")
    assert max(logs, key=logs.__getitem__) == "saludo"


def test_bad_input_is_named_and_nothing_is_written(files, tmp_path, capfd) -> None:
    train, tune = files
    out = tmp_path / "p.npz"
    assert fit((train, train), out) == 2
    assert "the same messages" in capfd.readouterr().err
    assert fit((tmp_path / "gone.jsonl", tune), out) == 2
    assert "gone.jsonl" in capfd.readouterr().err
    strange = {"otra": (["x"], ["y"]), "saludo": (["hola"], [""])}
    tune.write_text(lines(strange), encoding="utf-8")
    assert fit(files, out) == 2
    assert "['otra']" in capfd.readouterr().err
    assert not out.exists()
