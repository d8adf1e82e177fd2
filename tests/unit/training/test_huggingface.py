"""Hugging Face folders out of GGUF files: the same weights, the same tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from cluster.cli.models import models_app
from cluster.errors import CommandError
from serve_app.model.folders import hash_folder
from training.answer_tokens import answer_tokens
from training.config import load_config
from training.errors import ExportError
from training.export.gguf_writer import permute_rope_rows, write_gguf
from training.export.huggingface import rope_rows_to_halves, unpack_gguf

OKLA = Path(__file__).parents[3] / "models" / "okla" / "okla-v2.Q4_K_M.gguf"
CONFIG = Path(__file__).parents[3] / "training" / "configs" / "okla-v2.yaml"
TEXT = 'klk ¿tienen {"intent":"saludo"} Corolla 2019? <|eot_id|> niño 😀 12345'


@pytest.fixture(scope="module")
def okla(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "okla-v2"
    unpack_gguf(OKLA, folder)
    return folder


def tiny(tied: bool, *, vocab_size: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("tied", [False, True])
def test_a_written_network_comes_back_as_it_was(okla: Path, tmp_path: Path, tied: bool) -> None:
    tokenizer = Tokenizer.from_file(str(okla / "tokenizer.json"))
    network = tiny(tied, vocab_size=tokenizer.get_vocab_size())
    write_gguf(network, tokenizer, tmp_path / "n.gguf", name="n", version="1.0.0")
    unpack_gguf(tmp_path / "n.gguf", tmp_path / "n")
    weights = load_file(tmp_path / "n" / "model.safetensors")
    expected = {k: v for k, v in network.state_dict().items() if not tied or "lm_head" not in k}
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(weights[name], tensor.numpy())
    again = LlamaForCausalLM.from_pretrained(tmp_path / "n").eval()
    ids = torch.tensor([tokenizer.encode(TEXT).ids])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, network(ids).logits)


def test_the_tokenizer_reads_and_writes_text_as_before(okla: Path) -> None:
    tokenizer = Tokenizer.from_file(str(okla / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == load_config(CONFIG).tokenizer.vocab_size
    ids = tokenizer.encode(TEXT).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == TEXT
    assert tokenizer.token_to_id("<|eot_id|>") in ids
    for text in answer_tokens():
        assert len(tokenizer.encode(text).ids) == 1


@pytest.mark.parametrize(("n_heads", "head_dim"), [(1, 2), (4, 8), (3, 64)])
def test_rope_rows_return_to_their_places(n_heads: int, head_dim: int) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(n_heads * head_dim, 5)).astype(np.float32)
    there = permute_rope_rows(weights, n_heads)
    np.testing.assert_array_equal(rope_rows_to_halves(there, n_heads), weights)


def test_the_command_prints_the_hash_that_the_engine_wants(tmp_path: Path) -> None:
    runner = CliRunner()
    folder = tmp_path / "okla"
    done = runner.invoke(models_app, ["unpack", str(OKLA), str(folder)])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == hash_folder(folder).sha256
    assert runner.invoke(models_app, ["hash", str(folder)]).stdout == done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["okla"]
    again = runner.invoke(models_app, ["unpack", str(OKLA), str(folder)])
    assert isinstance(again.exception, CommandError)
    assert "exists already" in str(again.exception)


def test_a_file_of_another_kind_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK" * 100)
    with pytest.raises(ExportError, match="no GGUF file"):
        unpack_gguf(tmp_path / "x.gguf", tmp_path / "x")
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]
