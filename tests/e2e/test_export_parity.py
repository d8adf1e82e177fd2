"""A GGUF file is the same model as the network it was exported from: tokens, logits, types."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from tests.full_disk import files, full_disk
from training.answer_tokens import answer_tokens
from training.chat import ChatEncoder
from training.config import TokenizerConfig, TrainConfig
from training.contract import answer_schema
from training.data.catalog import Split, intent_names
from training.data.generator import DataConfig, Message, generate
from training.errors import ArtefactError, ExportError
from training.export.gguf_writer import write_gguf
from training.export.llama_runtime import open_gguf
from training.export.quantise import Q4_K_M_TYPES, check_types, quantise
from training.network import build_network, make_deterministic, sequence_logits
from training.tokenizer import SPECIAL_TOKENS, train_tokenizer

LOGIT_TOLERANCE = {"F32": 0.01, "F16": 0.03}
"""Largest difference of a logit, in standard deviations of the logits. llama.cpp keeps keys and
values in F16 in both cases, which is where the F32 file differs."""

TEXTS = [
    pytest.param("Klk, busco una yipeta pa' la familia", id="street"),
    pytest.param("¿Cuánto cuesta la Hilux 2020? ¡RD$1,350,000.50!", id="digits"),
    pytest.param("😂🔥 précio 🇩🇴 👨‍👩‍👧 ñandú", id="emoji"),
    pytest.param("  dos  espacios \t tab\n\n\nlíneas \r\n fin  ", id="whitespace"),
    pytest.param('{"response":"Sí, claro.","confidence":0.95,"x":[true,false]}', id="json"),
    pytest.param("I'm we'll DON'T 12345678 a1b2c3 ---***", id="english-and-signs"),
    pytest.param("日本語 العربية Ελληνικά \u00a0\u200b\u3000 x", id="scripts"),
    pytest.param("<|eot_id|>hola<|begin_of_text|>", id="markup-as-text"),
    pytest.param('di {"intent":"saludo","confidence":0.9 ,"response":"klk', id="answer-as-text"),
]
SHAPES = {
    "nano": {"n_layers": 1, "n_heads": 2, "n_kv_heads": 1},
    "shipped": {"n_layers": 4, "n_heads": 4, "n_kv_heads": 2},
}


def a_config(shape: str) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": shape,
            "version": "0.0.1",
            "description": "random",
            "data": DataConfig(),
            "tokenizer": {"vocab_size": 1024},
            "model": SHAPES[shape],
            "optim": {"n_steps": 1},
        }
    )


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TokenizerConfig(vocab_size=1024, n_conversations=300), seed=42)


@pytest.fixture(scope="module")
def answers() -> list[str]:
    conversations = list(generate(DataConfig(n_train=124), Split.TRAIN))
    assert {c.intent for c in conversations} == set(intent_names())
    return [c.answer_json for c in conversations]


@pytest.fixture(scope="module")
def nano(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("nano", tokenizer, tmp_path_factory.mktemp("nano"), half=False)[1]


def export(
    shape: str, tokenizer: Tokenizer, folder: Path, *, half: bool
) -> tuple[LlamaForCausalLM, Path]:
    make_deterministic(7, 1)
    network = build_network(a_config(shape)).eval()
    for parameter in network.parameters():
        # Initial weights give logits near zero, where a wrong permutation would go unseen.
        if parameter.ndim > 1:
            parameter.data.mul_(3)
    path = folder / f"{shape}.gguf"
    write_gguf(network, tokenizer, path, name=shape, version="0.0.1", half=half)
    return network, path


@pytest.mark.parametrize("text", TEXTS)
def test_llama_cpp_gives_the_same_tokens(nano: Path, tokenizer: Tokenizer, text: str) -> None:
    encoder = ChatEncoder(tokenizer)
    with open_gguf(nano) as model:
        assert model.tokenize(text) == encoder.text_ids(text)


def test_llama_cpp_gives_the_same_prompt(nano: Path, tokenizer: Tokenizer) -> None:
    ids = ChatEncoder(tokenizer).prompt_ids([Message(role="user", content="klk, ¿precio?")])
    text = tokenizer.decode(ids, skip_special_tokens=False)
    with open_gguf(nano) as model:
        assert model.tokenize(text, parse_special=True) == ids


def test_answers_keep_their_tokens_and_text(
    nano: Path, tokenizer: Tokenizer, answers: list[str]
) -> None:
    encoder = ChatEncoder(tokenizer)
    fixed = {tokenizer.token_to_id(text) for text in answer_tokens()}
    seen: set[int] = set()
    with open_gguf(nano) as model:
        for answer in answers:
            ids = encoder.text_ids(answer)
            assert model.tokenize(answer) == ids
            assert model.detokenize(ids) == tokenizer.decode(ids) == answer
            assert ids[0] in fixed
            seen.update(ids)
    assert fixed <= seen


def test_the_grammar_of_an_answer_accepts_its_tokens(
    nano: Path, tokenizer: Tokenizer, answers: list[str]
) -> None:
    encoder = ChatEncoder(tokenizer)
    with open_gguf(nano) as model:
        grammar = model.grammar(answer_schema())
        for answer in answers[:40]:
            walk = grammar.start()
            for token in (*encoder.text_ids(answer), encoder.eot_id):
                wished = np.zeros(model.n_vocab, dtype=np.float32)
                wished[token] = 1
                assert walk.best(wished) == token, answer
                walk.accept(token)
            walk.free()


def test_special_tokens_are_never_made_from_plain_text(nano: Path) -> None:
    with open_gguf(nano) as model:
        assert not set(model.tokenize("".join(SPECIAL_TOKENS))) & set(range(len(SPECIAL_TOKENS)))


@pytest.mark.parametrize("half", [False, True], ids=["F32", "F16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_the_network(
    shape: str, half: bool, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    network, path = export(shape, tokenizer, tmp_path, half=half)
    ids = ChatEncoder(tokenizer).prompt_ids([Message(role="user", content="¿Cuánto e la inicial?")])
    expected = sequence_logits(network, ids).numpy()
    with open_gguf(path, threads=1) as model:
        actual = model.logits(ids)
    assert expected.std() > 0.5
    tolerance = LOGIT_TOLERANCE["F16" if half else "F32"] * max(1.0, float(expected.std()))
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=0)


def test_quantising_gives_k_quants_only(nano: Path, tmp_path: Path) -> None:
    counts = quantise(nano, tmp_path / "nano.Q4_K_M.gguf", threads=1)
    assert set(counts) == Q4_K_M_TYPES
    with open_gguf(tmp_path / "nano.Q4_K_M.gguf") as model:
        assert np.isfinite(model.logits([0, 1, 2])).all()


def test_a_full_disk_leaves_the_quantised_file_that_was_there(nano: Path, tmp_path: Path) -> None:
    target = tmp_path / "nano.Q4_K_M.gguf"
    quantise(nano, target, threads=1)
    before = files(tmp_path)
    with full_disk(), pytest.raises(ExportError, match="llama_model_quantize returned"):
        quantise(nano, target, threads=1)
    assert files(tmp_path) == before


def test_a_fallback_type_is_refused(nano: Path) -> None:
    with pytest.raises(ExportError, match=r"blk\.0\.ffn_down\.weight"):
        check_types(nano, Q4_K_M_TYPES)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ArtefactError, match=r"broken\.gguf"), open_gguf(broken):
        pass
    with pytest.raises(ArtefactError, match=r"none\.gguf"), open_gguf(tmp_path / "none.gguf"):
        pass
