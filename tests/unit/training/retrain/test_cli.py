"""`carril retrain`: from an export of feedback to a dataset, as an operator does it."""

import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import run
from experiments.events.records import Feedback, Transcript
from experiments.events.store import EventStore
from tests.unit.training.retrain.batches import said
from training.config import TrainConfig
from training.data.generator import DataConfig
from training.data.suites import natural_conversations, to_line
from training.learnt import prepared_phrases, training_conversations
from training.retrain.examples import Example, read_examples
from training.retrain.minhash import near_pairs

_N_FEEDBACK = 90


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def export(tmp_path: Path, unseen: list[Example]) -> Path:
    """Praise of 90 answers, of two on the same day by each person."""
    chosen = random.Random(3).sample(unseen, _N_FEEDBACK)
    return _export(tmp_path / "feedback.jsonl", [_line(n, e) for n, e in enumerate(chosen)])


def _line(number: int, example: Example, **changes: object) -> dict[str, object]:
    line: dict[str, object] = {
        "schema_version": 1,
        "feedback_id": f"f{number}",
        "inference_id": f"chatcmpl-{number}",
        "received_at": f"2026-05-{1 + number // 48:02d}T{number // 2 % 24:02d}:00:00+00:00",
        "unit": f"session-{number // 2}",
        "tenant": "dealer",
        "variant": "stable",
        "model_sha256": "a" * 64,
        "thumbs": "up",
        "rating": None,
        "category": None,
        "correction": None,
        "metric_name": None,
        "value": None,
        "messages": [turn.model_dump() for turn in example.messages[:-1]],
        "answer": example.messages[-1].content,
        "approved": None,
    }
    return line | changes


def _export(path: Path, lines: Sequence[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["retrain", *arguments, "--json"]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def _approved(export: Path, base: Path) -> None:
    assert run(["retrain", "collect", "--from", str(export), "--base", str(base)]) == 0
    assert run(["retrain", "review", "approve", "--all", "--by", "ana"]) == 0


def test_feedback_becomes_a_dataset_only_after_approval(
    export: Path, small_base: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _json(capsys, "collect", "--from", str(export), "--base", str(small_base))
    assert (found["n_feedback"], found["n_queued"]) == (_N_FEEDBACK, _N_FEEDBACK)
    assert (
        _json(capsys, "collect", "--from", str(export), "--base", str(small_base))["n_queued"] == 0
    )

    assert run(["retrain", "prepare", "--base", str(small_base)]) == 1
    assert "no approved feedback" in capsys.readouterr().err
    assert not (home / "retrain" / "datasets").exists()

    pending = _json(capsys, "review", "ls")["items"]
    assert len(pending) == _N_FEEDBACK
    assert min(one["confidence"] for one in pending) >= 0.85
    ids = [one["item_id"] for one in pending]
    assert run(["retrain", "review", "reject", ids[0], "--by", "ana", "--note", "a name"]) == 0
    assert run(["retrain", "review", "approve", *ids[1:], "--by", "ana"]) == 0

    manifest = _json(capsys, "prepare", "--base", str(small_base))
    assert ids[0] not in manifest["item_ids"]
    n_original, n_new = manifest["n_original"], manifest["n_new"]
    assert n_original / (n_original + n_new) == pytest.approx(0.70, abs=0.01)
    folder = Path(manifest["folder"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "dev.jsonl", "heldout.jsonl", "left_out.jsonl", "manifest.json", "train.jsonl",
    ]  # fmt: skip
    for part in manifest["parts"].values():
        raw = (folder / part["file"]).read_bytes()
        assert hashlib.sha256(raw).hexdigest() == part["sha256"]


def test_the_parts_share_nothing_with_each_other_or_with_the_golden_set(
    export: Path, small_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _approved(export, small_base)
    folder = Path(_json(capsys, "prepare", "--base", str(small_base), "--all-original")["folder"])
    parts = {name: read_examples(folder / f"{name}.jsonl") for name in ("train", "dev", "heldout")}
    sizes = {name: len(members) for name, members in parts.items()}
    assert sizes["train"] / sum(sizes.values()) == pytest.approx(0.85, abs=0.05)
    homes: dict[str, str] = {}
    for name, members in parts.items():
        assert {homes.setdefault(example.family, name) for example in members} == {name}
    placed = [(name, example.text) for name, members in parts.items() for example in members]
    for one, other in near_pairs([text for _, text in placed]):
        assert placed[one][0] == placed[other][0]


def test_a_phrase_of_the_golden_set_is_never_trained_on(
    tmp_path: Path, unseen: list[Example], small_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = json.loads(
        (small_base / "suites" / "golden.jsonl").read_text("utf-8").split("\n")[200]
    )
    asked = golden["messages"][-1]["content"]
    lines = [_line(n, e) for n, e in enumerate(random.Random(3).sample(unseen, 60))]
    lines[0]["messages"] = [{"role": "user", "content": f"{asked} "}]
    _approved(_export(tmp_path / "f.jsonl", lines), small_base)
    manifest = _json(capsys, "prepare", "--base", str(small_base), "--all-original")
    assert manifest["left_out"]["leak"] >= 1
    folder = Path(manifest["folder"])
    texts = {said(example) for example in read_examples(folder / "train.jsonl")}
    assert f"{asked} " not in texts
    left_out = (folder / "left_out.jsonl").read_text(encoding="utf-8")
    assert "chatcmpl-0" in left_out


def test_a_message_that_calibrations_are_fitted_on_is_never_trained_on(
    tmp_path: Path, unseen: list[Example], small_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(small_base, base)
    natural = [to_line(record) for record in natural_conversations()]
    (base / "natural.jsonl").write_text("\n".join(natural), encoding="utf-8")
    asked = json.loads(natural[200])["messages"][-1]["content"]
    lines = [_line(n, e) for n, e in enumerate(random.Random(3).sample(unseen, 60))]
    lines[0]["messages"] = [{"role": "user", "content": f"{asked} "}]
    _approved(_export(tmp_path / "f.jsonl", lines), base)
    manifest = _json(capsys, "prepare", "--base", str(base), "--all-original")
    assert manifest["protected"]["natural.jsonl"] == len(natural)
    left_out = (Path(manifest["folder"]) / "left_out.jsonl").read_text(encoding="utf-8")
    assert "1 examples are asked in natural.jsonl" in left_out


def test_the_same_inputs_give_the_same_dataset(
    export: Path, small_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _approved(export, small_base)
    one, other = (
        _json(capsys, "prepare", "--base", str(small_base), "--out", str(tmp_path / name))
        for name in ("one", "other")
    )
    assert one["sha256"] == other["sha256"]
    assert one["parts"] == other["parts"]


def test_the_mix_is_an_option(
    export: Path, small_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _approved(export, small_base)
    manifest = _json(capsys, "prepare", "--base", str(small_base), "--original-ratio", "0.9")
    share = manifest["n_original"] / (manifest["n_original"] + manifest["n_new"])
    assert share == pytest.approx(0.9, abs=0.01)


def test_a_poisoned_batch_is_stopped_and_writes_nothing(
    tmp_path: Path, unseen: list[Example], small_base: Path, home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    lines = [_line(n, e) for n, e in enumerate(random.Random(3).sample(unseen, 100))]
    lines += [_line(200 + n, e, unit="eager") for n, e in enumerate(unseen[-30:])]
    _approved(_export(tmp_path / "f.jsonl", lines), small_base)
    capsys.readouterr()
    assert run(["retrain", "prepare", "--base", str(small_base)]) == 1
    err = capsys.readouterr().err
    assert "flood: person" in err
    assert "--drop-flagged" in err
    assert not list((home / "retrain").glob("datasets/*"))

    manifest = _json(capsys, "prepare", "--base", str(small_base), "--drop-flagged")
    assert manifest["left_out"]["flood"] == 30
    assert manifest["n_new"] <= 100


def test_feedback_comes_from_the_events_of_the_gateway(
    home: Path, unseen: list[Example], small_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A praised answer with its text; another tenant's vote on the same id changes nothing."""
    example = unseen[0]
    store = EventStore(home / "events" / "events.db")
    store.append(
        [
            _vote("f1", "dealer", "chatcmpl-1", 1.0),
            _vote("f2", "stranger", "chatcmpl-1", 0.0),
            _vote("f3", "dealer", "chatcmpl-2", 1.0),
            Transcript(
                inference_id="chatcmpl-1",
                captured_at=1.7e9,
                tenant="dealer",
                messages=json.dumps([turn.model_dump() for turn in example.messages[:-1]]),
                answer=example.messages[-1].content,
                unrated_until=4e9,
                keep_until=4e9,
            ),
        ]
    )
    store.close()
    found = _json(capsys, "collect", "--base", str(small_base))
    assert (found["n_feedback"], found["n_queued"]) == (3, 1)
    assert found["skipped"] == {"text was not captured": 2}
    (one,) = _json(capsys, "review", "ls")["items"]
    assert (one["inference_id"], one["intent"]) == ("chatcmpl-1", example.intent)


def _vote(feedback_id: str, tenant: str, target: str, value: float) -> Feedback:
    return Feedback(
        feedback_id=feedback_id,
        received_at=1.7e9,
        tenant=tenant,
        metric="thumbs",
        metric_type="boolean",
        level="inference",
        direction="increase",
        target=target,
        value=value,
        text=None,
        tags="{}",
        idempotency=None,
        request_hash="h",
        config_hash="c",
    )


def test_broken_lines_are_named_and_nothing_is_collected(
    export: Path, small_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = export.read_text(encoding="utf-8").splitlines()
    lines[4] = lines[4].replace('"thumbs": "up"', '"thumbs": "sideways"')
    lines[7] = lines[7][:40]
    lines[9] = lines[8]
    export.write_text("\n".join(lines), encoding="utf-8")
    assert run(["retrain", "collect", "--from", str(export), "--base", str(small_base)]) == 2
    err = capsys.readouterr().err
    assert "3 feedback lines cannot be used" in err
    assert f"{export}:5: thumbs" in err
    assert f"{export}:8: line" in err
    assert f"{export}:10: inference_id 'chatcmpl-8' is also in {export}:9" in err
    assert _json(capsys, "review", "ls", "--show", "all")["items"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collect", "--from", "nowhere.jsonl", "--base", "."], "nowhere.jsonl"),
        (["review", "approve", "--by", "ana"], "name items, or give --all"),
        (["review", "approve", "abc", "--by", "ana"], "no item of the queue begins with 'abc'"),
        (["review", "approve", "abc", "--by", " "], "--by is empty"),
        (["submit", "--config", "c.yaml"], "no prepared dataset"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_bad_input_is_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["retrain", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_an_existing_folder_is_never_changed(
    export: Path, small_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _approved(export, small_base)
    (tmp_path / "taken").mkdir()
    out = ["--out", str(tmp_path / "taken")]
    assert run(["retrain", "prepare", "--base", str(small_base), *out]) == 2
    assert "exists" in capsys.readouterr().err
    assert list((tmp_path / "taken").iterdir()) == []


def test_a_training_learns_what_was_prepared_and_refuses_another(
    export: Path, small_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _approved(export, small_base)
    manifest = _json(capsys, "prepare", "--base", str(small_base), "--all-original")
    folder = Path(manifest["folder"])

    def config(sha256: str) -> TrainConfig:
        return TrainConfig.model_validate(
            {
                "name": "okla-v2",
                "version": "2.1.0",
                "description": "with feedback",
                "data": DataConfig(n_train=10),
                "dataset": {"path": folder, "sha256": sha256},
                "optim": {"n_steps": 10},
            }
        )

    learnt = training_conversations(config(manifest["sha256"]))
    assert len(learnt) == manifest["parts"]["train"]["n_examples"]
    texts = {phrase.text for phrase in prepared_phrases(config(manifest["sha256"]), learnt)}
    assert texts == {said(example) for example in read_examples(folder / "train.jsonl")}
    with pytest.raises(Exception, match="the configuration says"):
        training_conversations(config("b" * 64))
    train = folder / "train.jsonl"
    train.write_bytes(train.read_bytes()[:-2] + b" \n")
    with pytest.raises(Exception, match="its manifest says"):
        training_conversations(config(manifest["sha256"]))
