"""Distributions of intents from candidates; expected values are worked out by hand."""

import math

import pytest

from experiments.evaluation.intents import (
    Candidate,
    ScoredToken,
    intent_probabilities,
    named_intent,
)

LABELS = ("saludo", "fotos_video", "fuera_de_dominio", "financiamiento_info")


def token(piece: str, p: float, **others: float) -> ScoredToken:
    top = [Candidate(piece.encode(), math.log(p))]
    top += [Candidate(name.encode(), math.log(q)) for name, q in others.items()]
    return ScoredToken(piece.encode(), math.log(p), tuple(top))


def test_one_token_with_the_whole_intent_tells_all_of_them():
    begun = token('{"intent":"saludo","confidence":0.', 0.6)
    other = Candidate(b'{"intent":"fuera_de_dominio","confidence":0.', math.log(0.2))
    noise = Candidate(b"Hola", math.log(0.2))
    tokens = [ScoredToken(begun.piece, begun.logprob, (*begun.top, other, noise)), token("9}", 1.0)]
    # Candidates that lead to no intent are no part of the whole.
    found = intent_probabilities(tokens, LABELS)
    assert found == pytest.approx({"saludo": 0.75, "fuera_de_dominio": 0.25})
    assert named_intent(tokens) == "saludo"


def test_a_shared_beginning_is_followed_where_the_answer_went():
    tokens = [
        token('{"intent":"', 1.0),
        token("f", 0.8, sal=0.2),
        token("uera", 0.5, otos=0.25, in_=0.25),
        token('_de_dominio"', 1.0),
        token("}", 1.0),
    ]
    found = intent_probabilities(tokens, LABELS)
    # "fin_" is no beginning of an intent, so its share goes to the others.
    whole = 0.2 + 0.4 + 0.2
    expected = {"saludo": 0.2 / whole, "fuera_de_dominio": 0.4 / whole, "fotos_video": 0.2 / whole}
    assert found == pytest.approx(expected)


def test_a_label_that_begins_another_counts_when_it_is_closed():
    tokens = [token('"intent":"', 1.0), token("si", 0.9), token('"', 0.7, _claro=0.3)]
    found = intent_probabilities(tokens, ("si", "si_claro"))
    assert found == pytest.approx({"si": 0.7, "si_claro": 0.3})


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param([], id="nothing"),
        pytest.param([token("nada", 0.5)], id="no intent"),
        pytest.param([token('"intent":"otro"', 0.5)], id="unknown intent"),
        pytest.param([ScoredToken(b'"intent":"saludo"', -0.1)], id="no candidates"),
        pytest.param(
            [ScoredToken(b'"intent":"saludo"', math.nan, (Candidate(b"x", 0.0),))], id="NaN"
        ),
        pytest.param(
            [ScoredToken(b'"intent":"saludo"', -math.inf, (Candidate(b"x", 0.0),))], id="impossible"
        ),
    ],
)
def test_where_nothing_can_be_told_there_is_none(tokens):
    assert intent_probabilities(tokens, LABELS) is None
