"""`carril feedback`, through the command line, over real event files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import run
from experiments.events.records import Event, Transcript
from experiments.events.store import EventStore
from tests.unit.experiments.events.builders import exposure, feedback, outcome, transcript

CONTRACT = [
    "schema_version",
    "feedback_id",
    "inference_id",
    "received_at",
    "unit",
    "tenant",
    "variant",
    "model_sha256",
    "thumbs",
    "rating",
    "category",
    "correction",
    "metric_name",
    "value",
    "messages",
    "answer",
    "approved",
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    return tmp_path


def store(home: Path, events: Iterable[Event]) -> None:
    file = EventStore(home / "events" / "events.db")
    file.append(events)
    file.close()


def exported(home: Path, *options: str) -> list[dict[str, Any]]:
    out = home / "out.jsonl"
    assert run(["feedback", "export", "--out", str(out), *options]) == 0
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def rated(n: int, **votes: Any) -> list[Event]:
    """Return an answer with its votes on built-in metrics, and its text."""
    target = f"chatcmpl-{n}"
    events: list[Event] = [
        outcome(target, unit=f"u{n}", intent="saludo"),
        transcript(target),
    ]
    for metric, value in votes.items():
        text = value if isinstance(value, str) else None
        kind = {"thumbs": "boolean", "rating": "integer"}.get(metric, "category")
        events.append(
            feedback(
                f"fb-{n}",
                target=target,
                metric=metric,
                metric_type="comment" if metric == "correction" else kind,
                value=None if text else float(value),
                text=text,
            )
        )
    return events


def test_export_has_one_line_per_answer_in_the_agreed_format(home: Path) -> None:
    store(home, rated(1, thumbs=False, rating=2, category="wrong_price", correction="20 %"))
    [line] = exported(home)
    assert list(line) == CONTRACT
    assert line | {"received_at": None} == {
        "schema_version": 1,
        "feedback_id": "fb-1",
        "inference_id": "chatcmpl-1",
        "received_at": None,
        "unit": "u1",
        "tenant": "default",
        "variant": "stable",
        "model_sha256": "ab" * 32,
        "thumbs": "down",
        "rating": 2,
        "category": "wrong_price",
        "correction": "20 %",
        "metric_name": None,
        "value": None,
        "messages": [{"role": "user", "content": "klk"}],
        "answer": '{"intent": "saludo", "response": "Dime a ver"}',
        "approved": None,
    }
    assert line["received_at"] == "2023-11-14T22:13:22+00:00"


def test_last_vote_counts_whatever_the_order_of_arrival(home: Path) -> None:
    up = feedback("fb-1", received_at=10.0, value=1.0)
    down = feedback("fb-2", received_at=20.0, value=0.0)
    rating = feedback("fb-1", received_at=10.0, metric="rating", metric_type="integer", value=5.0)
    store(home, [down, outcome(), up, rating])
    [line] = exported(home)
    assert (line["thumbs"], line["rating"], line["feedback_id"]) == ("down", 5, "fb-2")
    [earlier] = exported(home, "--until", "1970-01-01T00:00:15")
    assert earlier["thumbs"] == "up"
    assert exported(home, "--since", "1970-01-01T00:00:15")[0]["rating"] is None


def test_other_metrics_have_lines_of_their_own(home: Path) -> None:
    store(
        home,
        [
            *rated(1, thumbs=True),
            feedback("fb-7", metric="useful", metric_type="float", value=0.25),
            feedback("fb-8", metric="sold", metric_type="boolean", value=0.0),
            exposure("u9"),
            feedback("fb-9", level="episode", target="u9", metric="lead", value=1.0),
        ],
    )
    lines = exported(home)
    assert sorted((line["metric_name"] or "", line["value"]) for line in lines) == [
        ("", None),
        ("sold", False),
        ("useful", 0.25),
    ]
    [episode] = [x for x in exported(home, "--episodes") if x["inference_id"] is None]
    assert (episode["unit"], episode["variant"], episode["value"]) == ("u9", "stable", True)


def test_early_feedback_is_exported_and_joined_when_its_outcome_comes(home: Path) -> None:
    store(home, [feedback()])
    [line] = exported(home)
    assert (line["variant"], line["unit"]) == (None, None)
    store(home, [outcome()])
    [line] = exported(home)
    assert (line["variant"], line["unit"]) == ("stable", "u1")


def test_feedback_is_never_joined_with_another_tenants_answer(home: Path) -> None:
    store(home, [feedback(tenant="globex"), outcome(), transcript()])
    [line] = exported(home)
    assert (line["variant"], line["messages"]) == (None, None)


def test_positive_examples_are_praised_answers_with_text(home: Path) -> None:
    store(
        home,
        [
            *rated(1, thumbs=True),
            *rated(2, rating=4),
            *rated(3, category="good_response"),
            *rated(4, thumbs=True, rating=1),
            *rated(5, rating=3),
            *rated(6, thumbs=True, correction="mejor así"),
            *rated(7, category="wrong_price"),
            outcome("chatcmpl-8"),
            feedback("fb-8", target="chatcmpl-8"),
        ],
    )
    lines = exported(home, "--positive")
    assert [line["id"] for line in lines] == [f"feedback-chatcmpl-{n}" for n in (1, 2, 3)]
    assert lines[0]["messages"] == [
        {"role": "user", "content": "klk"},
        {"role": "assistant", "content": '{"intent": "saludo", "response": "Dime a ver"}'},
    ]
    assert lines[0]["intent"] == "saludo"
    assert len({line["family"] for line in lines}) == 3


def test_positive_examples_can_be_learnt_from(home: Path) -> None:
    from training.lora.dataset import Example

    store(home, rated(1, thumbs=True))
    [line] = exported(home, "--positive")
    example = Example.model_validate(line)
    assert example.answer == transcript().answer


def test_no_events_is_an_empty_file_and_a_word(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(home) == []
    assert "does not exist" in capsys.readouterr().err


def test_export_to_stdout_is_data_only(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(home, rated(1, thumbs=True))
    assert run(["feedback", "export", "--out", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["thumbs"] == "up"
    assert "1 records" in captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--events", "no/such.db"], 2, "no/such.db"),
        (["--since", "ayer"], 2, "'ayer'"),
        (["--since", "2026-02-01", "--until", "2026-01-01"], 2, "not before"),
        (["--positive", "--episodes"], 2, "give one"),
    ],
)
def test_wrong_use_is_told(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert run(["feedback", "export", "--out", "-", *arguments]) == code
    assert words in capsys.readouterr().err


def test_damaged_event_file_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "noise.db"
    path.write_bytes(b"no database" * 1000)
    assert run(["feedback", "export", "--out", "-", "--events", str(path)]) == 3
    assert "noise.db cannot be read" in capsys.readouterr().err


def test_failed_export_leaves_the_file_that_was_there(home: Path) -> None:
    out = home / "out.jsonl"
    out.write_text("before", encoding="utf-8")
    path = home / "noise.db"
    path.write_bytes(b"no database" * 1000)
    assert run(["feedback", "export", "--out", str(out), "--events", str(path)]) == 3
    assert out.read_text(encoding="utf-8") == "before"
    assert sorted(p.name for p in home.iterdir()) == ["noise.db", "out.jsonl"]


DIALOGUES = [
    (["user"], True),
    (["system", "user", "assistant", "user"], True),
    (["developer", "user"], True),
    (["system"], False),
    (["user", "user"], False),
    (["user", "assistant"], False),
    (["system", "system", "user"], False),
    (["assistant", "user"], False),
]


@pytest.mark.parametrize(("roles", "kept"), DIALOGUES, ids=["-".join(d[0]) for d in DIALOGUES])
def test_only_dialogues_that_training_reads_are_examples(
    home: Path, roles: list[str], kept: bool
) -> None:
    from training.lora.dataset import Example

    messages = json.dumps([{"role": role, "content": "klk"} for role in roles])
    praised = [event for event in rated(1, thumbs=True) if not isinstance(event, Transcript)]
    store(home, [*praised, transcript("chatcmpl-1", messages=messages)])
    lines = exported(home, "--positive")
    assert len(lines) == kept
    for line in lines:
        Example.model_validate(line)


def test_answers_that_were_cut_off_are_no_examples(home: Path) -> None:
    cut = outcome("chatcmpl-1", finish_reason="length")
    store(home, [cut, transcript("chatcmpl-1"), feedback(target="chatcmpl-1")])
    assert exported(home, "--positive") == []
