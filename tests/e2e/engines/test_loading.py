"""What can be loaded, what is refused, and how a context is sized."""

import asyncio
import sys

import pytest

from serve_app.engines.llama_cpp import capacity, load
from serve_app.errors import ConfigError, InvalidField, ModelFileError
from tests.e2e.engines.asking import ask, chat, completion, model_config
from tests.e2e.engines.nano_gguf import write_nano_gguf


class Profile:
    """A profile with a template of its own."""

    chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}bot:"
    answer_schema = None
    system_prompt = None
    openings = ()


def answer_of(path, request, **options):
    engine = load(model_config(**options), path)
    try:
        return asyncio.run(ask(engine, request))
    finally:
        asyncio.run(engine.close())


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="does not exist"):
        load(model_config(), tmp_path / "no.gguf")


@pytest.mark.parametrize("n_bytes", [0, 3, 24, 2_000, 1_000_000])
def test_truncated_file_is_refused(nano, tmp_path, n_bytes):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(nano.read_bytes()[:n_bytes])
    with pytest.raises(ModelFileError, match=r"no GGUF file that llama\.cpp can load"):
        load(model_config(), broken)


def test_more_context_than_the_model_was_trained_for_is_refused(nano):
    with pytest.raises(ConfigError, match=r"n_ctx is 2048.*1024"):
        load(model_config(n_ctx=2048), nano)


def test_quantised_kv_without_flash_attention_is_refused(nano):
    with pytest.raises(ConfigError, match="flash_attention: true"):
        load(model_config(llama_cpp={"kv_type": "q8_0", "flash_attention": False}), nano)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"kv_type": "q8_0"}, id="q8_0 KV"),
        pytest.param({"flash_attention": False}, id="no flash attention"),
        pytest.param({"n_batch": 32}, id="small batches"),
        pytest.param({"prefix_cache": False}, id="no prefix cache"),
        pytest.param({"n_threads": 2}, id="two threads"),
    ],
)
def test_options_change_answers_by_rounding_only(nano, options):
    request = chat("busco una yipeta " * 10, max_tokens=1, logprobs=0)
    plain = answer_of(nano, request)
    other = answer_of(nano, request, llama_cpp={"n_threads": 1} | options)
    assert other.logprobs[0].logprob == pytest.approx(plain.logprobs[0].logprob, abs=0.1)


def test_model_without_template_only_completes(tmp_path):
    path = write_nano_gguf(tmp_path / "base.gguf", template=None)
    assert answer_of(path, completion("hola", max_tokens=3)).usage.completion_tokens <= 3
    with pytest.raises(InvalidField, match="no chat template"):
        answer_of(path, chat("hola"))


def test_template_that_changes_messages_is_refused_and_frees_the_model(tmp_path):
    path = write_nano_gguf(tmp_path / "odd.gguf", template="{{ messages[0].content | upper }}")
    with pytest.raises(ModelFileError, match="not supported"):
        load(model_config(), path)


def test_template_of_the_profile_comes_first(nano):
    engine = load(model_config(), nano, profile=Profile())
    plain = load(model_config(), nano)
    try:
        assert engine.info.template_sha256 != plain.info.template_sha256
        tokens = engine._prompter.chat(chat("hola").messages)
        assert engine._vocabulary.text(tokens) == "user: hola\nbot:"
    finally:
        asyncio.run(engine.close())
        asyncio.run(plain.close())


def test_small_models_get_one_thread_and_large_ones_all():
    assert capacity.thread_count(None, 3 << 20) == 1
    assert capacity.thread_count(5, 3 << 20) == 5
    assert capacity.thread_count(None, 8 << 30) >= 1


def test_two_engines_in_one_process_do_not_disturb_each_other(nano):
    engines = [load(model_config(), nano) for _ in range(2)]

    async def both():
        return await asyncio.gather(*(ask(engine, chat("hola")) for engine in engines))

    first, second = asyncio.run(both())
    asyncio.run(engines[0].close())
    assert first.text == second.text == asyncio.run(ask(engines[1], chat("hola"))).text
    asyncio.run(engines[1].close())


def test_missing_library_names_the_command(monkeypatch):
    from serve_app.engines.llama_cpp.binding import library

    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(ConfigError, match=r"pip install 'carril\[cpu\]'"):
        library.__wrapped__()
