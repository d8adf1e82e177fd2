"""Text that stands in every answer, as tokens of its own.

Half of an answer is the same in all of them: keys, quotes, brackets. As single tokens these parts
are written in a tenth of the steps, and the intent, with all that surrounds it, is one choice
among its peers: its probability needs no product, and the network no spelling.
"""

from functools import cache

from training.data.catalog import intent_names

RESPONSE = ',"response":"'
SIGNALS = '","leadSignals":{"urgency":"'


@cache
def intent_opening(intent: str) -> str:
    """Return how an answer with an intent begins, up to the decimals of its confidence."""
    return f'{{"intent":"{intent}","confidence":0.'


@cache
def answer_tokens() -> tuple[str, ...]:
    """Return all of them, in the order of their ids; none is part of another."""
    return (
        *(intent_opening(name) for name in intent_names()),
        RESPONSE,
        SIGNALS,
        '","financing":',
        ',"tradeIn":',
        ',"testDrive":',
        ',"contactProvided":',
        '},"handoff":',
        ',"quickReplies":["',
    )
