"""What is refused about a base before anything heavy is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.errors import ConfigError
from training.lora.base import open_base
from training.lora.config import TemplateSource

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 300,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"architectures": ["Qwen2ForCausalLM"]}, "Qwen2ForCausalLM", id="other kind"),
        pytest.param({"hidden_size": None}, "hidden_size None", id="no width"),
        pytest.param({"vocab_size": "300"}, "vocab_size '300'", id="text for a number"),
        pytest.param({"num_attention_heads": 0}, "num_attention_heads 0", id="no heads"),
        pytest.param({"hidden_size": 250}, "no multiple of 256", id="width"),
        pytest.param({}, r"no \*\.safetensors", id="no weights"),
    ],
)
def test_an_unfit_base_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | changes))
    with pytest.raises(ConfigError, match=message):
        open_base(tmp_path, template=TemplateSource.BASE, q4_k_m=True)
