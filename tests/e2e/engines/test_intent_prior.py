"""A classifier's opinion is added to the first choice of the shipped models, to nothing else."""

import asyncio
import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.evaluation.gguf_target import GgufTarget
from experiments.evaluation.items import Item
from experiments.evaluation.profile import read_profile
from experiments.intent_prior.errors import PriorError
from experiments.intent_prior.table import PriorTable, pack
from serve_app.engines.llama_cpp import LlamaCppEngine, load
from serve_app.engines.protocol import GenerationRequest, Message, SamplingParams
from serve_app.errors import ConfigError, EngineFailed
from serve_app.model.calls import ModelCall
from serve_app.model.profile import Profile, load_profile
from serve_app.model.replica import ModelReplica
from tests.e2e.engines.asking import Answer, ask, chat, model_config
from training.data.catalog import load_catalog

ROOT = Path(__file__).parents[3]
MODELS = sorted((ROOT / "models/okla").glob("*.gguf"))
MODEL = ROOT / "models/okla/okla-v2.Q4_K_M.gguf"
PLAIN_PROFILE = load_profile(str(ROOT / "models/okla/profile"))
INTENTS = json.loads(PLAIN_PROFILE.answer_schema or "")["properties"]["intent"]["enum"]
QUESTIONS = ("¿Cuánto cuesta la Hilux?", "Buenas", "mándame fotos", "Quiero financiamiento")
CLEAR = SamplingParams(max_tokens=256, temperature=0, logprobs=20)


def prefers(intent: str, by: float) -> PriorTable:
    """Return a prior that prefers one intent whatever is said: only its intercepts say anything."""
    n = len(INTENTS)
    return PriorTable(
        labels=tuple(INTENTS),
        hashes=np.array([1], dtype=np.uint32),
        messages_with=np.array([1], dtype=np.uint32),
        weights=np.zeros((1, n), dtype=np.int8),
        scales=np.ones(n, dtype=np.float32),
        intercepts=np.array([by * (label == intent) for label in INTENTS], dtype=np.float32),
        temperature=1.0,
        n_messages=1,
        training_sha256="0" * 64,
    )


def profile_folder(folder: Path, table: PriorTable, options: str = "") -> Path:
    shutil.copytree(ROOT / "models/okla/profile", folder)
    text = f"grounding: inventory\nintent_prior: p.npz\n{options}"
    (folder / "profile.yaml").write_text(text, encoding="utf-8")
    (folder / "p.npz").write_bytes(pack(table))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("prior") / "profile"
    return profile_folder(made, prefers("despedida", 30.0))


@pytest.fixture(scope="module")
def profile(folder: Path) -> Profile:
    return load_profile(str(folder))


def engine_of(profile: Profile, path: Path = MODEL, **options: object) -> LlamaCppEngine:
    llama_cpp = {"n_threads": 1} | options
    return load(model_config(n_ctx=1024, n_slots=4, llama_cpp=llama_cpp), path, profile=profile)


@pytest.fixture(scope="module")
def engine(profile: Profile):
    engine = engine_of(profile)
    yield engine
    asyncio.run(engine.close())


def request_for(text: str, profile: Profile, **changes: object) -> GenerationRequest:
    system = Message(role="system", content=profile.system_prompt or "")
    own: dict[str, object] = {
        "json_schema": profile.answer_schema,
        "sampling": CLEAR,
        "first_bias": profile.bias.of(text) if profile.bias else None,
    }
    messages = (system, Message(role="user", content=text))
    return GenerationRequest(request_id=text, messages=messages, **(own | changes))


def answers(engine: LlamaCppEngine, *requests: GenerationRequest) -> list[Answer]:
    async def in_turn() -> list[Answer]:
        return [await ask(engine, request) for request in requests]

    return asyncio.run(in_turn())


def intents(found: list[Answer]) -> list[str]:
    return [json.loads(answer.text)["intent"] for answer in found]


def replies_of(intent: str) -> set[str]:
    spec = load_catalog().replies[intent]
    return {*spec.formal, *spec.street}


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_strong_prior_decides_the_intent_and_the_reply_is_of_it(path, profile):
    engine = engine_of(profile, path)
    try:
        found = answers(engine, *(request_for(text, profile) for text in QUESTIONS))
        bare = answers(engine, *(request_for(t, profile, first_bias=None) for t in QUESTIONS))
    finally:
        asyncio.run(engine.close())
    assert intents(found) == ["despedida"] * len(QUESTIONS)
    assert "despedida" not in intents(bare)
    farewells = replies_of("despedida")
    n_right = sum(json.loads(answer.text)["response"] in farewells for answer in found)
    assert n_right >= 0.75 * len(found)
    assert not any(json.loads(answer.text)["response"] in farewells for answer in bare)


def test_the_probabilities_are_the_product_of_both(engine, profile):
    text = "mándame fotos"
    (bare,) = answers(engine, request_for(text, profile, first_bias=None))
    mild = {'{"intent":"fotos_video"': -3.0, '{"intent":"despedida"': 1.5}
    (both,) = answers(engine, request_for(text, profile, first_bias=mild))
    network = {c.token_bytes: c.logprob for c in bare.logprobs[0].top}
    product = {
        piece: logprob + sum(v for text, v in mild.items() if piece.startswith(text.encode()))
        for piece, logprob in network.items()
    }
    reported = {c.token_bytes: c.logprob for c in both.logprobs[0].top}
    best = sorted(product, key=lambda piece: -product[piece])[:3]
    # Against the likeliest of them, which no choice beyond the 20 that are told can move.
    assert [reported[p] - reported[best[0]] for p in best] == pytest.approx(
        [product[p] - product[best[0]] for p in best], abs=0.005
    )
    # With what lies beyond, the choices can only be less likely than among the 20 alone.
    norm = math.log(math.fsum(math.exp(value) for value in product.values()))
    assert product[best[0]] - norm - 0.2 < reported[best[0]] < product[best[0]] - norm + 0.005
    chosen = both.logprobs[0]
    assert chosen.logprob == pytest.approx(reported[chosen.token_bytes])


def test_only_the_first_token_is_touched(engine, profile):
    # It names the same intent, so from there on the two answers are one.
    text = "¿Cuánto cuesta la Hilux?"
    (bare,) = answers(engine, request_for(text, profile, first_bias=None))
    (intent,) = intents([bare])
    bias = {opening: -5.0 for opening in profile.openings if f'"{intent}"' not in opening}
    bias["9"] = -30.0  # what its confidence of 0.9 goes on with, and no answer begins with
    (both,) = answers(engine, request_for(text, profile, first_bias=bias))
    assert '"confidence":0.9' in bare.text
    assert both.text == bare.text
    assert both.logprobs[0].logprob > bare.logprobs[0].logprob
    rest = [one.logprob for one in bare.logprobs[1:]]
    assert [one.logprob for one in both.logprobs[1:]] == pytest.approx(rest, abs=0.02)


def test_drawn_answers_follow_it_too(engine, profile):
    sampling = SamplingParams(max_tokens=256, temperature=1.0, top_p=0.95, seed=5)
    requests = [request_for(text, profile, sampling=sampling) for text in QUESTIONS]
    assert intents(answers(engine, *requests)) == ["despedida"] * len(QUESTIONS)


def test_guessed_and_forced_text_changes_nothing(profile):
    sampling = SamplingParams(max_tokens=256, temperature=0)
    asked = [request_for(text, profile, sampling=sampling) for text in QUESTIONS]
    # Answers without the prior come in between, so that what is remembered is of both kinds.
    mixed = [part for one in asked for part in (one, replace(one, first_bias=None))] * 2
    found = []
    for remembers in (True, False):
        engine = engine_of(
            profile,
            answer_memory=remembers,
            prompt_lookup=remembers,
            jump_forward=remembers,
            packing=False,
        )
        try:
            found.append([answer.text for answer in answers(engine, *mixed)])
            stats = engine.stats()
        finally:
            asyncio.run(engine.close())
        assert bool(stats.right_by_source["answers"]) is remembers
        assert bool(stats.forced_tokens_total) is remembers
    assert found[0] == found[1]


def test_without_a_schema_nothing_is_added(engine, profile):
    bias = dict.fromkeys(profile.openings, -30.0)
    free = [request_for("Buenas", profile, json_schema=None, first_bias=b) for b in (bias, None)]
    one, other = answers(engine, *free)
    assert one.text == other.text
    assert [token.logprob for token in one.logprobs] == pytest.approx(
        [token.logprob for token in other.logprobs], abs=0.02
    )


def test_a_model_that_spells_intents_out_is_refused_while_it_loads(nano, profile):
    with pytest.raises(ConfigError, match=r'no token that spells .*"saludo".* at once'):
        load(model_config(), nano, profile=profile)


def test_a_bias_for_a_text_that_no_token_spells_is_an_error(engine):
    bad = chat("hola", json_schema='{"type":"object"}')
    with pytest.raises(EngineFailed, match="no token that spells 'zq/zq'"):
        answers(engine, replace(bad, first_bias={"zq/zq": 1.0}))


async def test_a_replica_adds_it_where_the_profiles_schema_is_in_use(folder, tmp_path, monkeypatch):
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r1"), app_name="okla")
    monkeypatch.setattr("serve_app.model.replica.serve.get_replica_context", lambda: context)
    monkeypatch.setattr("serve_app.model.replica.configure_logging", lambda name: None)
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    sha256 = hashlib.sha256(MODEL.read_bytes()).hexdigest()
    replica = ModelReplica()
    await replica.reconfigure(
        {
            "engine": "llama_cpp",
            "model": {"path": str(MODEL), "sha256": sha256},
            "profile": str(folder),
            "n_ctx": 512,
            "llama_cpp": {"n_threads": 1, "answer_memory": False, "prompt_lookup": False},
        }
    )

    async def intent_of(**own: object) -> str:
        request = GenerationRequest(
            request_id="r",
            messages=(Message(role="user", content="mándame fotos"),),
            sampling=SamplingParams(max_tokens=256, temperature=0),
            **own,
        )
        (chunk,) = (await replica.generate(ModelCall(request=request))).chunks
        return json.loads(chunk.text)["intent"]

    try:
        identity = replica._keeper.slot.current.identity
        assert identity.prior_sha256 == load_profile(str(folder)).bias.sha256
        assert await intent_of() == "despedida"
        # The client's own schema, even where it says the same, is answered by the network alone.
        assert await intent_of(json_schema=PLAIN_PROFILE.answer_schema) == "fotos_video"
    finally:
        await replica._keeper.slot.current.engine.close()


def test_the_evaluation_of_a_file_asks_it_the_same_way(engine, profile, folder):
    items = [
        Item.model_validate(
            {
                "schema_version": 1,
                "id": text,
                "suite": "golden",
                "messages": [{"role": "user", "content": text}],
            }
        )
        for text in QUESTIONS
    ]
    target = GgufTarget(MODEL, read_profile(folder))
    try:
        replies = [target.answer(item) for item in items]
    finally:
        target.close()
    assert target.info().prior_sha256 == profile.bias.sha256
    served = answers(engine, *(request_for(text, profile) for text in QUESTIONS))
    assert [reply.text for reply in replies] == [answer.text for answer in served]
    assert all((reply.probabilities or {})["despedida"] > 0.99 for reply in replies)


def test_bare_answers_are_measured_without_it(folder):
    target = GgufTarget(MODEL, read_profile(folder), grammar=False)
    target.close()
    assert target.info().prior_sha256 is None


def test_the_evaluation_refuses_a_model_that_it_cannot_reach(nano, folder):
    with pytest.raises(PriorError, match="at once"):
        GgufTarget(nano, read_profile(folder))
