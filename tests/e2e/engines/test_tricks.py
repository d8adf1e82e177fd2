"""Packing, forced text and guesses change how fast an answer comes, not what it is."""

import asyncio
import json
from pathlib import Path
from string import ascii_letters

import jsonschema
import pytest

from serve_app.engines.llama_cpp import load
from serve_app.engines.llama_cpp.forced import Spots, TokenIndex
from serve_app.engines.llama_cpp.grammar import Grammar
from serve_app.engines.llama_cpp.model import Model
from serve_app.engines.llama_cpp.vocabulary import Vocabulary
from serve_app.engines.protocol import GenerationRequest, Message, SamplingParams
from serve_app.engines.schema import compile_schema
from serve_app.model.profile import load_profile
from tests.e2e.engines.asking import ask, chat, completion, model_config

ROOT = Path(__file__).parents[3]
OKLA = ROOT / "models/okla/okla-v2.Q4_K_M.gguf"
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "intent": {"type": "string", "enum": ["price", "prices", "photos"]},
            "text": {"type": "string", "maxLength": 12},
            "handoff": {"type": "boolean"},
            "notes": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
        },
        "required": ["intent", "text", "handoff", "notes"],
        "additionalProperties": False,
    }
)
NONE = {
    "n_threads": 1,
    "packing": False,
    "jump_forward": False,
    "prompt_lookup": False,
    "answer_memory": False,
}
QUESTIONS = (
    "Klk, busco una yipeta pa la familia",
    "¿Cuánto cuesta la Toyota Corolla?",
    "Quiero financiamiento, pero no tengo los papeles",
    "buenas, ¿tienen Hilux?",
    "me interesa el civic del 2018",
    "¿toman mi carro como parte de pago?",
)


def answers(path, options, requests, *, n_slots=8, profile=None):
    """Ask all at once; return the answers and the engine's counters."""
    engine = load(
        model_config(n_ctx=1024, n_slots=n_slots, llama_cpp=options), path, profile=profile
    )

    async def everything():
        return await asyncio.gather(*(ask(engine, request) for request in requests))

    try:
        found = asyncio.run(everything())
        return found, engine.stats()
    finally:
        asyncio.run(engine.close())


@pytest.fixture(scope="module")
def okla_requests():
    profile = load_profile(str(ROOT / "models/okla/profile"))
    system = Message(role="system", content=profile.system_prompt or "")
    return profile, [
        GenerationRequest(
            request_id=text,
            messages=(system, Message(role="user", content=text)),
            json_schema=profile.answer_schema,
            sampling=SamplingParams(max_tokens=300, temperature=0),
        )
        for text in QUESTIONS
    ]


@pytest.mark.parametrize("trick", ["packing", "jump_forward", "prompt_lookup"])
def test_a_trained_model_answers_the_same_with_each_trick(okla_requests, trick):
    profile, requests = okla_requests
    # One at a time: in company other kernels round differently, which may tip a near tie.
    plain, _ = answers(OKLA, NONE, requests, n_slots=1, profile=profile)
    tricky, stats = answers(OKLA, NONE | {trick: True}, requests, n_slots=1, profile=profile)
    assert [answer.text for answer in tricky] == [answer.text for answer in plain]
    assert [answer.usage.completion_tokens for answer in tricky] == [
        answer.usage.completion_tokens for answer in plain
    ]
    if trick == "jump_forward":
        assert stats.forced_tokens_total >= 4 * len(requests)


def test_forced_text_saves_steps(okla_requests):
    profile, requests = okla_requests
    _, plain = answers(OKLA, NONE, requests, n_slots=1, profile=profile)
    _, jumping = answers(OKLA, NONE | {"jump_forward": True}, requests, n_slots=1, profile=profile)
    saved = plain.steps_total - jumping.steps_total
    assert saved >= 0.8 * jumping.forced_tokens_total


def test_random_weights_give_valid_answers_and_never_take_a_step_for_a_key(nano):
    requests = [
        chat(f"hola {i}", json_schema=SCHEMA, max_tokens=120, temperature=t)
        for i, t in enumerate((0.0, 0.0, 0.7, 1.0, 1.5))
    ]
    found, stats = answers(nano, {"n_threads": 1}, requests)
    for answer in found:
        assert answer.finish_reason == "stop"
        jsonschema.validate(json.loads(answer.text), json.loads(SCHEMA))
        assert list(json.loads(answer.text)) == ["intent", "text", "handoff", "notes"]
    assert stats.forced_tokens_total >= 10 * len(requests)


def closed(**properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties)[-1:],
        "additionalProperties": False,
    }


def told_by_text(low, high, name):
    item = closed(text={"type": "string", "minLength": low, "maxLength": high})
    item["properties"][name] = {"type": "boolean"}
    return item | {"required": ["text", name]}


@pytest.mark.parametrize(
    "schema",
    [
        # Names that may begin in forty ways are no free string, and each has a value of its own.
        closed(**{f"{letter}x": {"const": i} for i, letter in enumerate(ascii_letters[:40])}),
        # What follows the text depends on its length.
        closed(
            x={
                "type": "array",
                "items": {"anyOf": [told_by_text(0, 5, "short"), told_by_text(6, 6, "long")]},
                "minItems": 6,
                "maxItems": 12,
            }
        ),
    ],
    ids=["names", "lookalikes"],
)
def test_what_is_forced_in_one_answer_is_not_taken_for_what_another_one_needs(nano, schema):
    text = json.dumps(schema)
    requests = [
        chat(f"hola {i}", json_schema=text, max_tokens=400, temperature=1.5, seed=i)
        for i in range(12)
    ]
    found, _ = answers(nano, {"n_threads": 1}, requests)  # a wrong one would end this process
    for answer in found:
        if answer.finish_reason == "stop":
            jsonschema.validate(json.loads(answer.text), schema)
    if "x" in schema["properties"]:
        names = {name for answer in found for name in ("short", "long") if name in answer.text}
        assert names == {"short", "long"}


def test_a_forced_token_that_does_not_fit_is_left_to_the_model(okla_vocabulary):
    model, vocabulary = okla_vocabulary
    grammar = Grammar(compile_schema(SCHEMA), vocabulary, model.vocab, TokenIndex(vocabulary))
    walk = grammar.start()
    assert walk.force(vocabulary.tokenize("}", parse_special=False)[0]) is False
    assert walk.forced == ()
    assert walk.allows(vocabulary.tokenize("{", parse_special=False)[0])
    walk.close()


def test_guesses_that_come_true_save_steps_and_wrong_ones_leave_no_trace(nano, monkeypatch):
    monkeypatch.setattr("serve_app.engines.llama_cpp.batching.spare_rows", lambda *_: 4)
    requests = [chat(f"uno dos tres {i}", max_tokens=150) for i in range(3)]
    plain, before = answers(nano, NONE, requests, n_slots=1)
    guessing, after = answers(nano, NONE | {"prompt_lookup": True}, requests, n_slots=1)
    assert after.guessed_tokens_total > after.right_guesses_total > 0
    assert after.steps_total <= before.steps_total - after.right_guesses_total
    assert after.kv_tokens_used == 0
    for a, b in zip(plain, guessing, strict=True):
        # Rows in company round differently: a near tie may tip, and all behind it with it.
        assert a.text[:40] == b.text[:40]
        assert a.usage.completion_tokens == b.usage.completion_tokens or "stop" in (
            a.finish_reason,
            b.finish_reason,
        )


def test_blank_rows_end_where_the_context_ends(nano, monkeypatch):
    monkeypatch.setattr("serve_app.engines.llama_cpp.batching.spare_rows", lambda *_: 15)
    long = [completion(tuple([40] * 1004), max_tokens=100) for _ in range(3)]
    short = completion(tuple([40] * 100), max_tokens=100)
    found, stats = answers(nano, NONE | {"packing": True}, [*long, short])
    for answer in found[:3]:
        assert answer.finish_reason == "stop" or answer.usage.completion_tokens == 20
    assert stats.step_rows_total > 8 * stats.steps_total
    assert stats.kv_tokens_used == 0


def test_log_probabilities_are_of_every_token_forced_ones_included(nano):
    request = chat("hola", json_schema=SCHEMA, max_tokens=120, logprobs=1)
    (answer,), stats = answers(nano, {"n_threads": 1}, [request])
    assert stats.forced_tokens_total == 0
    assert len(answer.logprobs) == answer.usage.completion_tokens


def test_an_answer_that_ends_inside_forced_text_ends_with_length(nano):
    for n in range(1, 9):
        (answer,), _ = answers(
            nano, {"n_threads": 1}, [chat("hola", json_schema=SCHEMA, max_tokens=n)]
        )
        assert answer.usage.completion_tokens == n
        assert answer.finish_reason == "length"


@pytest.fixture(scope="module")
def okla_vocabulary():
    model = Model(OKLA, vocab_only=True)
    yield model, Vocabulary(model.vocab)
    model.close()


def walk_over(grammar, vocabulary, text):
    walk = grammar.start()
    for token in vocabulary.tokenize(text, parse_special=False):
        _ = walk.forced
        assert walk.allows(token), text
        walk.accept(token)
    return walk


@pytest.mark.parametrize(
    ("written", "forced"),
    [
        ("", '{"intent":"p'),
        ('{"intent":"price', ""),  # or "prices"
        ('{"intent":"ph', 'otos","text":"'),
        ('{"intent":"photos","text":"a', ""),
        ('{"intent":"photos","text":"a"', ',"handoff":'),
        ('{"intent":"photos","text":"\\""', ',"handoff":'),
        ('{"intent":"photos","text":"a","handoff":f', 'alse,"notes":['),
        ('{"intent":"photos","text":"a","handoff":true,"notes":["a"', ""),
        ('{"intent":"photos","text":"a","handoff":true,"notes":["a","b"', "]}"),
    ],
)
def test_what_is_forced_at_each_place(okla_vocabulary, written, forced):
    model, vocabulary = okla_vocabulary
    index = TokenIndex(vocabulary)
    grammar = Grammar(compile_schema(SCHEMA), vocabulary, model.vocab, index)
    walk = walk_over(grammar, vocabulary, written)
    spots = Spots(index)
    found = b""
    # What the grammar forces, before it is cut to tokens that the model could not prefer others to.
    index.tokens = lambda text: found_is(text)

    def found_is(text):
        nonlocal found
        found = text
        return ()

    spots.explore(b"", walk)
    assert found.decode() == forced


def test_a_token_that_goes_on_behind_forced_text_is_left_to_the_model(okla_vocabulary):
    _, vocabulary = okla_vocabulary
    index = TokenIndex(vocabulary)
    # The vocabulary has {"intent":"saludo","confidence":0. and its like as single tokens.
    assert index.tokens(b'{"intent":"') == ()
    assert len(index.tokens(b',"response":"')) == 1
