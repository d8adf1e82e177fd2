import math

import pytest

from experiments.evaluation.intents import ScoredToken, intent_probability


def tokens(*pairs: tuple[str, float]) -> list[ScoredToken]:
    return [ScoredToken(piece.encode(), math.log(p)) for piece, p in pairs]


def test_the_probability_is_the_product_over_the_value():
    found = intent_probability(
        tokens(('{"intent', 0.1), ('":"', 0.2), ("salu", 0.8), ("do", 0.5), ('","', 0.3))
    )
    assert found == pytest.approx(0.4)


def test_a_token_across_the_quote_counts():
    found = intent_probability(tokens(('{"intent":"sa', 0.5), ("ludo", 0.9), ('"}', 0.1)))
    assert found == pytest.approx(0.45)


def test_the_order_of_the_keys_does_not_matter():
    found = intent_probability(
        tokens(('{"response":"hola","intent"', 0.1), (':"', 0.9), ("abuso", 0.7), ('"', 0.2))
    )
    assert found == pytest.approx(0.7)


@pytest.mark.parametrize("text", ["nada", '{"intent":""}', '{"intent":3}'])
def test_without_an_intent_there_is_none(text):
    assert intent_probability(tokens((text, 0.5))) is None
