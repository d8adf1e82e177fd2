"""A base that cannot be trained and exported is refused before a weight is read."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.lora.bases import CHATML, write_base, write_dataset
from training.errors import ConfigError
from training.lora.base import Base, open_base
from training.lora.config import SystemPrompt, TemplateSource
from training.lora.encoding import TemplateEncoder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("bases") / "good")


@pytest.fixture
def base(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "base"))


def edit(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | changes), encoding="utf-8")


def opened(folder: Path, template: TemplateSource = TemplateSource.BASE) -> Base:
    return open_base(folder, template=template, q4_k_m=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"architectures": ["GPT2LMHeadModel"]},
            "has the architecture GPT2LMHeadModel; LoRA training takes the Llama family",
            id="architecture",
        ),
        pytest.param(
            {"architectures": None, "model_type": "mistral"}, "architecture mistral", id="no-name"
        ),
        pytest.param(
            {"quantization_config": {"quant_method": "gptq"}}, r"quantised \(gptq\)", id="quantised"
        ),
        pytest.param({"attention_bias": True}, "attention_bias", id="bias"),
        pytest.param(
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'yarn'", id="rope"
        ),
        pytest.param(
            {"intermediate_size": 320},
            "intermediate_size 320, no multiple of 256.*q4_k_m: false",
            id="width",
        ),
        pytest.param({"vocab_size": 100}, "network only 100 embeddings", id="vocabulary"),
    ],
)
def test_a_configuration_is_refused_by_what_it_says(
    base: Path, changes: dict[str, Any], message: str
) -> None:
    edit(base / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        opened(base)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"normalizer": {"type": "NFKC"}}, "normalises text", id="normaliser"),
        pytest.param(
            {"model": {"type": "Unigram", "vocab": []}}, "Unigram tokenizer", id="unigram"
        ),
        pytest.param(
            {"pre_tokenizer": {"type": "Whitespace"}}, "no known name in llama.cpp", id="split"
        ),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_run_otherwise_is_refused(
    base: Path, changes: dict[str, Any], message: str
) -> None:
    edit(base / "tokenizer.json", **changes)
    with pytest.raises(ConfigError, match=message):
        opened(base)


def test_a_tokenizer_with_byte_fallback_is_refused(base: Path) -> None:
    path = base / "tokenizer.json"
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    edit(path, model=model | {"byte_fallback": True})
    with pytest.raises(ConfigError, match="BPE with byte fallback"):
        opened(base)


def test_missing_parts_are_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'meta/llama' is no folder; give a local path"):
        opened(Path("meta/llama"))
    (base / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"has no \*\.safetensors"):
        opened(base)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"config\.json"):
        opened(tmp_path / "empty")


def test_a_base_without_a_template_can_learn_the_profile_s_if_it_has_its_tokens(base: Path) -> None:
    edit(base / "tokenizer_config.json", chat_template=None)
    with pytest.raises(ConfigError, match="use `chat_template: profile`"):
        opened(base)
    with pytest.raises(ConfigError, match=r"no token '<\|begin_of_text\|>'"):
        opened(base, TemplateSource.PROFILE)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param(
            CHATML.replace("message['content']", "message['content'] | upper"),
            "changes the text of messages",
            id="changes-text",
        ),
        pytest.param(
            CHATML.replace("<|im_end|>", "<|endoftext|>"), "end it by '<|im_end|>'", id="other-end"
        ),
        pytest.param(
            CHATML.replace("assistant\\n' -}}", "assistant\\n<think>' -}}"),
            "right after the generation prompt",
            id="prompt-adds-text",
        ),
    ],
)
def test_a_template_that_would_teach_something_else_is_refused(
    base: Path, template: str, message: str
) -> None:
    edit(base / "tokenizer_config.json", chat_template=template)
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        TemplateEncoder(opened(base), prompt=SystemPrompt.NONE)


def test_the_command_refuses_with_exit_code_2_and_writes_nothing(
    base: Path, tmp_path: Path
) -> None:
    edit(base / "config.json", architectures=["Qwen2ForCausalLM"])
    write_dataset(tmp_path / "data")
    config = tmp_path / "config.yaml"
    content = {
        "name": "x", "version": "1.0.0", "license": "MIT", "base": "base", "dataset": "data",
        "optim": {"n_steps": 1},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "training.lora", "--config", str(config), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: The base" in done.stderr
    assert "Qwen2ForCausalLM" in done.stderr
    assert not out.exists()
