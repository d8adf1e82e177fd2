"""Sample conversations of both arms, where the deployment keeps texts."""

import json
from pathlib import Path
from typing import NamedTuple

from experiments.analysis.assemble import ARMS
from experiments.analysis.log import Log, open_log
from experiments.analysis.result import Analysis
from experiments.feedback.answers import reply_of

_PER_ARM = 3

_SAMPLE = """
SELECT t.messages, t.answer, o.intent, (
    SELECT value FROM feedback AS f WHERE f.target = o.inference_id AND f.tenant = o.tenant
        AND f.level = 'inference' AND f.metric = 'thumbs'
    ORDER BY f.received_at DESC, f.feedback_id DESC LIMIT 1
) FROM transcripts AS t JOIN outcomes AS o ON o.inference_id = t.inference_id
    AND o.tenant = t.tenant
WHERE o.experiment = :experiment AND o.version = :version AND o.variant = :variant
    AND o.status = 'ok' AND o.exposure = 'enrolled'
ORDER BY t.captured_at DESC, t.inference_id LIMIT :n
"""


class Conversation(NamedTuple):
    """What was said in one request, without personal data."""

    variant: str
    asked: str
    """The last thing that the user said."""
    answer: str
    intent: str | None
    thumbs: bool | None


def read_conversations(path: Path | str, analysis: Analysis) -> list[Conversation]:
    """Return the latest captured conversations of each arm; none where texts are not kept."""
    with open_log(path) as log:
        return [
            found for arm in ARMS for found in _of_variant(log, analysis, analysis.variant(arm))
        ]


def _of_variant(log: Log, analysis: Analysis, variant: str) -> list[Conversation]:
    values = {
        "experiment": analysis.experiment,
        "version": analysis.version,
        "variant": variant,
        "n": _PER_ARM,
    }
    return [
        Conversation(
            variant=variant,
            asked=_last_question(messages),
            answer=reply_of(answer),
            intent=intent,
            thumbs=None if thumbs is None else bool(thumbs),
        )
        for messages, answer, intent, thumbs in log.rows(_SAMPLE, values)
    ]


def _last_question(messages: str) -> str:
    said = [m["content"] for m in json.loads(messages) if m.get("role") == "user"]
    return str(said[-1]) if said else ""
