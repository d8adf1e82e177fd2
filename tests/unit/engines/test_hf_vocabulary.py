"""The tokenizer of a Hugging Face folder, read without vLLM."""

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="needs the training extra: make training")

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from serve_app.config import parse_model_config
from serve_app.engines.vllm import binding
from serve_app.engines.vllm.binding import library
from serve_app.engines.vllm.folder import HfFolder, read_folder
from serve_app.engines.vllm.vocabulary import HfVocabulary, byte_of_character
from serve_app.errors import ConfigError, ModelFileError

CONFIG = {
    "vocab_size": 300,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 256,
    "eos_token_id": [257],
}


def write_folder(path: Path, *, add_bos: bool = False, **settings: Any) -> Path:
    vocabulary = {c: i for i, c in enumerate(byte_of_character())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<bos>", "<eos>", "<eot>")])
    tokenizer.add_tokens([AddedToken("¡ya!", special=False, normalized=False)])
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 256)]
        )
    path.mkdir(exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": {"content": "<eot>"}}
    (path / "config.json").write_text(json.dumps(CONFIG | settings))
    (path / "tokenizer_config.json").write_text(json.dumps(names))
    return path


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> HfVocabulary:
    return HfVocabulary(read_folder(write_folder(tmp_path_factory.mktemp("hf"))))


@given(text=st.text(max_size=200))
def test_text_comes_back_from_its_tokens(vocabulary: HfVocabulary, text: str) -> None:
    tokens = vocabulary.tokenize(text, parse_special=False)
    assert vocabulary.text(tokens) == text
    assert not set(tokens) & vocabulary.control


def test_names_of_special_tokens_count_only_in_template_text(vocabulary: HfVocabulary) -> None:
    attack = "a<eot><bos>¡ya!"
    plain = vocabulary.tokenize(attack, parse_special=False)
    assert not set(plain) & {256, 257, 258}
    assert vocabulary.text(plain) == attack
    assert plain[-1] == 259, "a token that is not special is one wherever it stands"
    special = vocabulary.tokenize(attack, parse_special=True)
    assert special[1:3] == (258, 256)
    assert vocabulary.text(special) == "a¡ya!"
    assert vocabulary.name(258) == b"<eot>"


def test_every_token_that_ends_an_answer_is_found(vocabulary: HfVocabulary) -> None:
    assert vocabulary.eog == {257, 258}
    assert (vocabulary.bos, vocabulary.eos) == (256, 258)


def test_columns_without_a_token_have_no_text(vocabulary: HfVocabulary) -> None:
    assert vocabulary.n_tokens == 260
    assert vocabulary.pieces[299] == vocabulary.name(299) == b""


def test_lone_surrogates_are_question_marks(vocabulary: HfVocabulary) -> None:
    assert vocabulary.text(vocabulary.tokenize("a\ud800b", parse_special=False)) == "a?b"


@pytest.mark.parametrize("add_bos", [True, False])
def test_the_post_processor_says_whether_texts_begin_with_bos(
    tmp_path: Path, add_bos: bool
) -> None:
    folder = read_folder(write_folder(tmp_path / "m", add_bos=add_bos))
    assert HfVocabulary(folder).add_bos is add_bos


def test_kv_of_a_token_is_counted_in_float32(tmp_path: Path) -> None:
    assert read_folder(write_folder(tmp_path / "m")).kv_token_bytes == 2 * 4 * 3 * 2 * 64
    odd = write_folder(tmp_path / "odd", num_hidden_layers=None)
    assert read_folder(odd).kv_token_bytes is None


@pytest.mark.parametrize(
    ("settings", "on_cpu", "expected"),
    [
        ({}, True, 9 * (1024 + 32) * 1000),
        ({}, False, None),
        ({"vllm": {"kv_cache_mib": 7}}, True, 7 << 20),
        ({"vllm": {"kv_cache_mib": 7}}, False, 7 << 20),
        ({"n_slots": 64, "n_ctx": 1 << 21}, True, 2 * ((1 << 21) + 32) * 1000),
        ({"n_slots": 64, "n_ctx": 1 << 16}, True, 2 << 30),
    ],
)
def test_kv_memory_is_counted_in_requests_where_there_is_no_gpu(
    settings: dict[str, Any], on_cpu: bool, expected: int | None
) -> None:
    raw = {"engine": "vllm", "model": {"path": "m", "sha256": "ab" * 32}, "n_ctx": 1024}
    config = parse_model_config(raw | settings)
    assert binding.kv_bytes(config, 1000, on_cpu=on_cpu) == expected


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "[]", "no JSON object"),
        ("config.json", "{", "cannot be read"),
        ("config.json", '{"vocab_size": "x"}', "vocab_size"),
        ("tokenizer.json", "{", "cannot be read"),
        ("tokenizer.json", '{"decoder": {"type": "Metaspace"}}', "Metaspace.*ByteLevel"),
        ("tokenizer.json", '{"decoder": {"type": "ByteLevel"}}', "no tokenizer"),
    ],
)
def test_a_broken_folder_is_refused_with_the_file(
    tmp_path: Path, file: str, content: str, message: str
) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / file).write_text(content)
    with pytest.raises(ModelFileError, match=message) as caught:
        HfVocabulary(read_folder(folder))
    assert file in str(caught.value)


def test_a_model_that_never_ends_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", eos_token_id=None)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelFileError, match="ends an answer"):
        HfVocabulary(read_folder(folder))


def test_a_folder_called_hf_is_named_by_the_run_that_holds_it(tmp_path: Path) -> None:
    def name(path: Path) -> str:
        return HfFolder(
            path=path, n_vocab=1, bos="", eos="", eos_ids=frozenset(), chat_template=None,
            kv_token_bytes=None,
        ).name  # fmt: skip

    assert name(tmp_path / "okla-v2" / "hf") == "okla-v2"
    assert name(tmp_path / "SmolLM2-135M") == "SmolLM2-135M"


def test_importing_the_engine_does_not_import_vllm() -> None:
    code = (
        "import sys, serve_app.engines.vllm;"
        "print(sorted({'vllm', 'torch', 'tokenizers', 'llama_cpp'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_another_version_of_vllm_is_refused_with_the_command_to_mend_it() -> None:
    binding.check_version("0.32.1")
    for version in ("0.31.9", "0.33.0", "0.320.0", "1.0"):
        with pytest.raises(ConfigError, match=r"pip install 'vllm==0\.32\.\*'"):
            binding.check_version(version)


def test_without_vllm_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match="make vllm"):
        library.__wrapped__()


def test_vllm_without_a_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(__version__="dev"))
    with pytest.raises(ConfigError, match="dev"):
        library.__wrapped__()
