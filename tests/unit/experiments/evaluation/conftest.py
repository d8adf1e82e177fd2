"""A target whose answers are written in the test: what evaluations are tried with."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.evaluation.items import Item
from experiments.evaluation.profile import Profile, read_profile
from experiments.evaluation.report import TargetInfo
from experiments.evaluation.target import Reply

SIGNALS = {
    "urgency": "none",
    "financing": False,
    "tradeIn": False,
    "testDrive": False,
    "contactProvided": False,
}


def answer_text(
    intent: str = "saludo", response: str = "Dime a ver, ¿qué tú busca?", **more
) -> str:
    fields = {
        "intent": intent,
        "confidence": 0.9,
        "response": response,
        "leadSignals": SIGNALS,
        "handoff": False,
        "quickReplies": [],
    }
    return json.dumps(fields | more, ensure_ascii=False)


def make_item(text: str = "klk", **more) -> Item:
    fields = {
        "schema_version": 1,
        "id": "a-1",
        "suite": "a",
        "messages": [{"role": "user", "content": text}],
    }
    return Item.model_validate(fields | more)


def item_line(**more) -> str:
    return make_item(**more).model_dump_json(by_alias=True)


class ScriptedTarget:
    """Answers with what a function of the item says."""

    workers = 1

    def __init__(
        self, reply: Callable[[Item], Reply], *, grammar: bool = True, prior: str | None = None
    ) -> None:
        self._reply, self._grammar, self._prior = reply, grammar, prior

    def answer(self, item: Item) -> Reply:
        return self._reply(item)

    def info(self) -> TargetInfo:
        return TargetInfo(
            kind="gguf",
            name="scripted",
            sha256="a" * 64,
            grammar=self._grammar,
            prior_sha256=self._prior,
        )

    def close(self) -> None:
        pass


@pytest.fixture
def profile() -> Profile:
    return read_profile()


@pytest.fixture
def write_suite(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str, name: str = "suite") -> Path:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write
