import math
import time
from dataclasses import replace

import numpy as np
import pytest

from experiments.grounding.profile_options import parse_options
from experiments.intent_prior.bias import OpeningBias, read_bias
from experiments.intent_prior.errors import PriorError
from experiments.intent_prior.features import features_of
from experiments.intent_prior.openings import answer_openings, tokens_that_open
from experiments.intent_prior.prior import IntentPrior
from experiments.intent_prior.table import PriorTable, pack

SCHEMA = {"properties": {"intent": {"enum": ["saludo", "fotos_video", "despedida"]}, "x": {}}}


def test_a_message_has_the_intent_of_its_words(table: PriorTable) -> None:
    prior = IntentPrior(table)
    for word, intent in {"¡HOLA!": "saludo", "unas fotos": "fotos_video"}.items():
        logs = prior.log_probabilities(word)
        assert max(logs, key=logs.__getitem__) == intent
        assert math.fsum(map(math.exp, logs.values())) == pytest.approx(1)


def test_scores_are_the_cosine_with_the_weights_over_the_temperature(table: PriorTable) -> None:
    # One known word: its value is 1 after normalising, its weight 1 and -1, its logits 2 and -2.
    logs = IntentPrior(table).log_probabilities("hola")
    norm = math.log(math.exp(2) + 2 * math.exp(-2))
    assert logs["saludo"] == pytest.approx(2 - norm, abs=1e-6)
    assert logs["despedida"] == pytest.approx(-2 - norm, abs=1e-6)


def test_two_words_weigh_as_one_vector_of_length_one(table: PriorTable) -> None:
    # Same idf: each has 1/sqrt(2), and together (1 - 1)/sqrt(2) = 0 for their own two intents.
    scores = IntentPrior(table).scores("hola fotos")
    by_label = dict(zip(table.labels, scores.tolist(), strict=True))
    expected = {"saludo": 0, "fotos_video": 0, "despedida": -math.sqrt(2)}
    assert by_label == pytest.approx(expected, abs=1e-6)


def test_a_table_of_the_first_format_does_not_listen(table: PriorTable) -> None:
    heard = next(iter(features_of("kiero").sounds))
    new = replace(
        table,
        hashes=np.array([heard], dtype=np.uint32),
        messages_with=np.ones(1, dtype=np.uint32),
        weights=np.array([[127, -127, -127]], dtype=np.int8),
    )
    assert IntentPrior(new).scores("quiero").tolist() == pytest.approx([1, -1, -1])
    assert IntentPrior(replace(new, format=1)).scores("quiero").tolist() == [0, 0, 0]


@pytest.mark.parametrize("message", ["", "zzz", "\ud800", "🚗" * 5000])
def test_a_message_without_a_known_word_says_nothing(table: PriorTable, message: str) -> None:
    logs = IntentPrior(table).log_probabilities(message)
    assert list(logs.values()) == pytest.approx([-math.log(3)] * 3)


def test_a_message_takes_well_below_a_millisecond(table: PriorTable) -> None:
    prior = IntentPrior(table)
    message = "hola, me manda unas fotos de la guagua gris que vi ayer porfa"
    taken = []
    for _ in range(50):
        started = time.perf_counter()
        prior.log_probabilities(message)
        taken.append(time.perf_counter() - started)
    assert min(taken) < 1e-3


def bias_of(table: PriorTable, weight: float = 1.0) -> OpeningBias:
    return OpeningBias(IntentPrior(table), weight, answer_openings(SCHEMA), pack(table))


def test_the_bias_is_the_weighted_logarithm_with_nothing_for_the_best(table: PriorTable) -> None:
    assert bias_of(table, 2.0).of("hola") == {
        '{"intent":"saludo"': 0.0,
        '{"intent":"fotos_video"': pytest.approx(-8),
        '{"intent":"despedida"': pytest.approx(-8),
    }


def test_its_hash_follows_file_and_weight(table: PriorTable) -> None:
    assert bias_of(table).sha256 == bias_of(table).sha256
    assert len({bias_of(table).sha256, bias_of(table, 2.0).sha256}) == 2


def test_a_profile_without_one_has_none(tmp_path) -> None:
    assert read_bias(tmp_path, parse_options(None), SCHEMA) is None


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        pytest.param(None, r"no answer\.schema\.json", id="no schema"),
        pytest.param({"type": "object"}, "has properties", id="no properties"),
        pytest.param({"properties": {"x": {"type": "string"}}}, "'x' is", id="no enum"),
        pytest.param({"properties": {"x": {"enum": [1, 2]}}}, "enum of strings", id="numbers"),
        pytest.param(
            {"properties": {"x": {"enum": ["saludo", "fotos_video", "otra"]}}},
            r"lacks \['otra'\], and has \['despedida'\] besides",
            id="other labels",
        ),
    ],
)
def test_a_prior_must_be_of_the_answers_first_property(tmp_path, table, schema, says) -> None:
    (tmp_path / "p.npz").write_bytes(pack(table))
    with pytest.raises(PriorError, match=says):
        read_bias(tmp_path, parse_options("intent_prior: p.npz"), schema)


def test_openings_are_written_as_compact_json() -> None:
    schema = {"properties": {'a"b': {"enum": ["ñ", "x\n"]}}}
    assert answer_openings(schema) == {"ñ": '{"a\\"b":"ñ"', "x\n": '{"a\\"b":"x\\n"'}


def test_an_opening_may_go_on_within_its_token_and_have_several() -> None:
    pieces = [b"", b"{", b'{"i":"a"', b'{"i":"a","c":0.', b'{"i":"ab"', b'x{"i":"a"']
    found = tokens_that_open(['{"i":"a"', '{"i":"ab"'], pieces)
    assert found == {'{"i":"a"': (2, 3), '{"i":"ab"': (4,)}


def test_a_model_that_spells_an_opening_in_several_tokens_is_refused() -> None:
    with pytest.raises(PriorError, match=r'spells \'{"i":"b"\' at once, nor 1 others of 3'):
        tokens_that_open(['{"i":"a"', '{"i":"b"', '{"i":"c"'], [b'{"i":"a"', b'{"i":"'])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("intent_prior: a/b.npz", "intent_prior: "),
        ("intent_prior: ..", "intent_prior: "),
        ("intent_prior: p.npz\nintent_prior_weight: 0", "greater than 0"),
        ("intent_prior: p.npz\nintent_prior_weight: 11", "less than or equal to 10"),
        ("intent_prior: p.npz\nintent_prior_weight: .nan", "intent_prior_weight"),
        ("intent_prior_weight: 2", "no intent_prior"),
    ],
)
def test_options_that_make_no_sense_are_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_options(text)
