"""The fixed text of answers is what the contract writes, and each part of it one token."""

from itertools import pairwise, permutations

import pytest
from tokenizers import Tokenizer

from training.answer_tokens import answer_tokens, intent_opening
from training.chat import ChatEncoder
from training.config import TokenizerConfig
from training.contract import Answer, LeadSignals
from training.data.catalog import intent_names
from training.export.vocabulary import TokenType, profile_vocabulary
from training.tokenizer import SPECIAL_TOKENS, train_tokenizer

FIXED = answer_tokens()[len(intent_names()) :]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TokenizerConfig(vocab_size=1024, n_conversations=300), seed=42)


def an_answer(intent: str, *, confidence: float = 0.93, response: str = "Dime a ver") -> str:
    return Answer(
        intent=intent,
        confidence=confidence,
        response=response,
        lead_signals=LeadSignals(urgency="high", financing=True),
        handoff=False,
        quick_replies=["Sí", "No"],
    ).to_compact_json()


def test_none_is_part_of_another() -> None:
    assert not [(a, b) for a, b in permutations(answer_tokens(), 2) if a in b]


def test_they_are_the_last_ids_in_order(tokenizer: Tokenizer) -> None:
    n_tokens, n_fixed = tokenizer.get_vocab_size(), len(answer_tokens())
    ids = [tokenizer.token_to_id(text) for text in answer_tokens()]
    assert ids == list(range(n_tokens - n_fixed, n_tokens))


@pytest.mark.parametrize("intent", intent_names())
def test_every_answer_is_written_with_all_of_them(tokenizer: Tokenizer, intent: str) -> None:
    encoder = ChatEncoder(tokenizer)
    ids = encoder.text_ids(an_answer(intent))
    assert ids[0] == encoder.intent_id(intent)
    places = [ids.index(tokenizer.token_to_id(text)) for text in FIXED]
    assert all(first < second for first, second in pairwise(places))
    assert tokenizer.decode(ids) == an_answer(intent)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(an_answer("saludo", confidence=1.0), id="a confidence without a zero"),
        pytest.param(an_answer("saludo", response=""), id="an empty reply"),
        pytest.param(an_answer("saludo", response=',"response":"'), id="fixed text in the reply"),
    ],
)
def test_rare_answers_survive(tokenizer: Tokenizer, answer: str) -> None:
    assert tokenizer.decode(ChatEncoder(tokenizer).text_ids(answer)) == answer


def test_the_exported_vocabulary_reads_them_in_any_text(tokenizer: Tokenizer) -> None:
    vocabulary = profile_vocabulary(tokenizer)
    kinds = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert {kinds[text] for text in answer_tokens()} == {TokenType.USER_DEFINED}
    assert {kinds[text] for text in SPECIAL_TOKENS} == {TokenType.CONTROL}


def test_the_opening_is_that_of_the_contract() -> None:
    for intent in intent_names():
        assert an_answer(intent).startswith(intent_opening(intent) + "93")
