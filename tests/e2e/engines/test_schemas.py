"""JSON answers by schema with a real llama.cpp, and schemas that try to hurt the engine."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from serve_app.engines.llama_cpp import load
from serve_app.engines.llama_cpp.grammar_checker import GrammarChecker
from serve_app.errors import ConfigError, InvalidSchema
from tests.e2e.engines.asking import ask, chat, model_config, until
from tests.unit.engines.schema_strategies import schemas

ROOT = Path(__file__).parents[3]
ANSWER_SCHEMA = (ROOT / "models/okla/profile/answer.schema.json").read_text(encoding="utf-8")


def check(answer, schema):
    if answer.finish_reason == "stop":
        jsonschema.validate(json.loads(answer.text), json.loads(schema))


@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(schema=schemas())
def test_answers_to_random_schemas_parse_and_validate(shared_engine, schema):
    text = json.dumps(schema)

    async def both():
        return await asyncio.gather(
            ask(shared_engine, chat("hola", json_schema=text, max_tokens=300)),
            ask(
                shared_engine, chat("hola", json_schema=text, max_tokens=300, temperature=1, seed=1)
            ),
        )

    for answer in asyncio.run(both()):
        check(answer, text)


async def test_many_answers_with_their_own_grammar_state(engine):
    requests = [
        chat(f"hola {i}", json_schema=ANSWER_SCHEMA, max_tokens=450, temperature=1.0, seed=i)
        for i in range(12)
    ]
    answers = await asyncio.gather(*(ask(engine, request) for request in requests))
    assert {answer.finish_reason for answer in answers} <= {"stop", "length"}
    assert sum(answer.finish_reason == "stop" for answer in answers) >= 6
    assert len({answer.text for answer in answers}) == 12
    for answer in answers:
        check(answer, ANSWER_SCHEMA)


async def test_answer_with_penalties_and_a_stop_string_stays_valid(engine):
    options = {"frequency_penalty": 1.0, "presence_penalty": 1.0, "stop": ('"intent"',)}
    for temperature in (0.0, 1.0):
        request = chat(
            "hola",
            json_schema=ANSWER_SCHEMA,
            max_tokens=450,
            temperature=temperature,
            seed=1,
            **options,
        )
        answer = await ask(engine, request)
        assert '"intent"' in answer.text
        check(answer, ANSWER_SCHEMA)


async def test_any_json_object(engine):
    request = chat("hola", json_schema='{"type":"object"}', max_tokens=300, temperature=1, seed=2)
    answer = await ask(engine, request)
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.text), dict)


async def test_cut_short_answer_says_length(engine):
    answer = await ask(engine, chat("hola", json_schema=ANSWER_SCHEMA, max_tokens=5))
    assert answer.finish_reason == "length"


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param('{"type":"string","minLength":100000000}', id="minLength bomb"),
        pytest.param('{"type":"object","properties":{"a":{"$ref":"#"}}}', id="cyclic"),
        pytest.param("[" * 10_000, id="nested"),
        pytest.param("null", id="null"),
    ],
)
async def test_schema_bombs_are_refused_and_the_engine_lives(engine, schema):
    for _ in range(2):  # the second time from memory
        with pytest.raises(InvalidSchema):
            await ask(engine, chat("hola", json_schema=schema))
    assert (await ask(engine, chat("hola"))).finish_reason


def test_checker_refuses_broken_grammars(nano):
    checker = GrammarChecker(nano)
    try:
        for broken in ("root ::= root", "root ::= (", 'other ::= "a"', "root ::= x"):
            with pytest.raises(InvalidSchema):
                checker.check(broken)
        checker.check('root ::= "a"')
    finally:
        checker.close()


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param("root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000, id="stack overflow"),
        pytest.param(
            "\n".join(
                ["root ::= a0"]
                + [f"a{i} ::= " + " ".join([f"a{i + 1}{{0,40}}"] * 40) for i in range(8)]
                + ['a8 ::= "x"?']
            ),
            id="endless",
        ),
    ],
)
def test_bomb_ends_the_helper_not_the_replica_and_the_next_one_works(nano, bomb):
    checker = GrammarChecker(nano, check_s=1.0)
    try:
        checker.check('root ::= "a"')
        first = checker.pid
        with pytest.raises(InvalidSchema, match="time or memory"):
            checker.check(bomb)
        checker.check('root ::= "a"')
        assert checker.pid != first
    finally:
        checker.close()
    assert checker.pid is None


def test_killed_helper_is_replaced(nano):
    checker = GrammarChecker(nano)
    try:
        checker.check('root ::= "a"')
        assert checker.pid is not None
        os.kill(checker.pid, signal.SIGKILL)
        with contextlib.suppress(InvalidSchema):  # it may die under a grammar, or be found dead
            checker.check('root ::= "a"')
        checker.check('root ::= "a"')
    finally:
        checker.close()


async def test_helper_ends_with_its_parent(nano, tmp_path):
    script = (
        "import sys, time; from pathlib import Path\n"
        "from serve_app.engines.llama_cpp.grammar_checker import GrammarChecker\n"
        "checker = GrammarChecker(Path(sys.argv[1]))\n"
        "checker.check('root ::= \"a\"'); print(checker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(nano), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    helper = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    await until(lambda: not _runs(helper), timeout_s=5)


def _runs(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class _Profile:
    chat_template = None
    answer_schema = '{"type":"array"}'
    system_prompt = None
    openings = ()


def test_profile_with_a_bad_schema_is_refused_at_load(nano):
    with pytest.raises(ConfigError, match="answer schema of the profile"):
        load(model_config(), nano, profile=_Profile())
