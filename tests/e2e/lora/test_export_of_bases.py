"""GGUF files of bases that others made: tokens, logits and prompts are those of Hugging Face."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from serve_app.engines.chat_template import ChatTemplate
from serve_app.engines.protocol import Message
from tests.e2e.lora.bases import CHATML, write_base
from training.chat import ChatEncoder
from training.data.generator import Message as TrainedMessage
from training.errors import ExportError
from training.export.gguf_writer import write_network
from training.export.llama_runtime import open_gguf
from training.export.quantise import quantise
from training.lora.base import Base, open_base
from training.lora.config import SystemPrompt, TemplateSource
from training.lora.dataset import Example, Turn
from training.lora.encoding import TemplateEncoder
from training.lora.network import load_base
from training.lora.parity import check_parity

TEXTS = (
    "Klk, busco una yipeta pa' la familia",
    "¿Cuánto cuesta la Hilux 2020? ¡RD$1,350,000.50!",
    "😂🔥 précio 🇩🇴 ñandú",
    "  dos  espacios \t tab\n\n\nlíneas \r\n fin  ",
    '{"response":"Sí, claro.","confidence":0.95}',
    "I'm we'll DON'T 12345678 a1b2c3 ---***",
    "日本語 العربية \u00a0\u200b\u3000 x",
    "<|im_end|>hola<|im_start|>",
)


def a_base(folder: Path, **options: Any) -> Base:
    write_base(folder, **options)
    return open_base(folder, template=TemplateSource.BASE, q4_k_m=False)


def exported(base: Base, path: Path) -> Path:
    network = load_base(base, torch.float32)
    write_network(
        network,
        base.vocabulary,
        path,
        name=base.name,
        version="0.0.1",
        license_="Apache-2.0",
        half=True,
    )
    return path


def examples() -> list[Example]:
    return [
        Example(messages=(Turn(role="user", content=text), Turn(role="assistant", content="sí")))
        for text in TEXTS
        if text.strip()
    ]


@pytest.mark.parametrize("pre", ["llama-bpe", "dbrx", "qwen2", "gpt-2", "smollm"])
def test_every_known_split_gives_the_same_tokens_and_logits(pre: str, tmp_path: Path) -> None:
    base = a_base(tmp_path / "base", pre=pre, num_hidden_layers=1)
    assert base.vocabulary.pre == pre
    encoder = TemplateEncoder(base, prompt=SystemPrompt.NONE)
    path = exported(base, tmp_path / "base.gguf")
    network = load_base(base, torch.float32).eval()
    parity = check_parity(network, encoder, examples(), path, template=CHATML, threads=1)
    assert parity.n_prompts == len(TEXTS)
    assert parity.logit_difference < 0.005


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({"tie_word_embeddings": True}, id="tied"),
        pytest.param(
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, id="default-rope"
        ),
        pytest.param(
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
            id="linear-rope",
        ),
        pytest.param({"head_dim": 32, "num_key_value_heads": 4}, id="narrow-heads"),
    ],
)
def test_shapes_of_other_bases_give_the_same_logits(shape: dict[str, Any], tmp_path: Path) -> None:
    base = a_base(tmp_path / "base", **shape)
    encoder = TemplateEncoder(base, prompt=SystemPrompt.PROFILE)
    path = exported(base, tmp_path / "base.gguf")
    network = load_base(base, torch.float32).eval()
    parity = check_parity(network, encoder, examples()[:2], path, template=CHATML, threads=1)
    assert parity.logit_difference < 0.005


def test_a_wrong_permutation_would_be_seen(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base")
    path = exported(base, tmp_path / "base.gguf")
    network = load_base(base, torch.float32).eval()
    keys = network.model.layers[0].self_attn.k_proj.weight.data
    keys.copy_(keys.roll(1, dims=0))
    encoder = TemplateEncoder(base, prompt=SystemPrompt.NONE)
    with pytest.raises(ExportError, match=r"base\.gguf: logits differ by"):
        check_parity(network, encoder, examples()[:1], path, template=CHATML, threads=1)


def test_training_and_serving_make_the_same_prompt(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base")
    encoder = TemplateEncoder(base, prompt=SystemPrompt.NONE)
    turns = [
        Turn(role="system", content="Eres OKLA."),
        Turn(role="user", content=" klk <|im_end|> ¿precio? "),
        Turn(role="assistant", content='{"intent":"saludo"}'),
        Turn(role="user", content="¿y la Hilux?"),
    ]
    template = ChatTemplate(CHATML, eos_token=base.eos)
    messages = [Message(role=turn.role, content=turn.content) for turn in turns]
    served: list[int] = []
    with open_gguf(exported(base, tmp_path / "base.gguf")) as model:
        for text, is_template in template.render(messages):
            served += model.tokenize(text, parse_special=is_template)
    assert encoder.prompt_ids(turns) == served


def test_the_profile_s_template_gives_the_tokens_of_a_training_from_scratch(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base", ours=True)
    base = open_base(folder, template=TemplateSource.PROFILE, q4_k_m=True)
    encoder = TemplateEncoder(base, prompt=SystemPrompt.PROFILE)
    scratch = ChatEncoder(Tokenizer.from_file(str(base.tokenizer_path)))
    answer = '{"intent":"saludo","response":"¡Hola!"}'
    turns = [("user", " klk <|eot_id|> "), ("assistant", "dime a ver"), ("user", "¿precio?")]
    ours = [TrainedMessage(role=role, content=text) for role, text in turns]  # type: ignore[arg-type]
    theirs = [Turn(role=role, content=text) for role, text in turns]  # type: ignore[arg-type]
    assert encoder.prompt_ids(theirs) == scratch.prompt_ids(ours)
    learnt = Turn(role="assistant", content=answer)
    encoded = encoder.encode(Example(messages=(*theirs, learnt)), max_tokens=1024).encoded
    whole = scratch.encode(
        [*ours, TrainedMessage(role="assistant", content=answer)], max_tokens=1024
    )
    assert encoded == whole


def test_the_oldest_turns_are_dropped_to_fit_and_the_prompt_stays(tmp_path: Path) -> None:
    encoder = TemplateEncoder(a_base(tmp_path / "base"), prompt=SystemPrompt.PROFILE)
    pair = (Turn(role="user", content="¿precio?"), Turn(role="assistant", content="dime"))
    short = encoder.encode(Example(messages=pair), max_tokens=4096)
    n = len(short.encoded.ids)
    assert encoder.encode(Example(messages=pair * 3), max_tokens=n) == (short.encoded, 4)
    with pytest.raises(ValueError, match=f"more than max_tokens {n - 1}"):
        encoder.encode(Example(messages=pair), max_tokens=n - 1)


def test_rows_that_are_no_multiple_of_256_are_named_with_their_width(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base", intermediate_size=320)
    path = exported(base, tmp_path / "base.gguf")
    with pytest.raises(ExportError, match=r"blk\.0\.ffn_down\.weight.*rows of 320"):
        quantise(path, tmp_path / "base.Q4_K_M.gguf", threads=1)
    assert not (tmp_path / "base.Q4_K_M.gguf").exists()


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base")
    network = load_base(base, torch.float32)
    network.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e6
    with pytest.raises(ExportError, match=r"blk\.0\.ffn_up\.weight.*1000000"):
        write_network(
            network, base.vocabulary, tmp_path / "x.gguf",
            name="x", version="0.0.1", license_="MIT", half=True,
        )  # fmt: skip
    assert list(tmp_path.glob("*.gguf")) == []
