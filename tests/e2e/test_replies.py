"""What the shipped models write belongs to the intent that they name."""

import json
import re
from pathlib import Path

import pytest

from experiments.evaluation.gguf_target import GgufTarget
from experiments.evaluation.items import Item
from experiments.evaluation.profile import read_profile
from training.data.catalog import load_catalog
from training.data.suites import WrittenSuite, written_items

MODELS = Path(__file__).parents[2] / "models" / "okla"
EVERY = 12
LEAST = 0.85
"""0.94 and 0.93 of all messages; the rest breaks off into the reply of another intent."""


def reply_patterns(intent: str) -> list[re.Pattern[str]]:
    spec = load_catalog().replies[intent]
    templates = [*spec.formal, *spec.street]
    if (grounded := spec.grounded) is not None:
        templates += [*grounded.formal, *grounded.street]
        templates += [*grounded.missing_formal, *grounded.missing_street]
    return [
        re.compile(re.sub(r"\\\{\w+\\\}", ".{1,40}", re.escape(template))) for template in templates
    ]


@pytest.mark.parametrize("name", ["okla-v1", "okla-v2"])
def test_replies_are_those_of_the_intent_that_was_decided_on(name: str) -> None:
    target = GgufTarget(MODELS / f"{name}.Q4_K_M.gguf", read_profile(MODELS / "profile"), threads=1)
    items = list(written_items(WrittenSuite.GOLDEN))[::EVERY]
    answers = [json.loads(target.answer(Item.model_validate(item)).text) for item in items]
    own = [
        any(pattern.fullmatch(answer["response"]) for pattern in reply_patterns(answer["intent"]))
        for answer in answers
    ]
    assert len(own) > 100
    assert sum(own) / len(own) >= LEAST
