"""Messages are placed, never interpreted; templates that do more are refused."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.chat_template import ChatTemplate
from serve_app.engines.protocol import Message
from serve_app.errors import InvalidField, ModelFileError

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}<start_of_turn>model\n"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}[INST] "
    "{% if loop.last and system is defined %}{{ system ~ '\n\n' }}{% endif %}"
    "{{ m.content }} [/INST]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)


def message(content, role="user"):
    return Message(role=role, content=content)


def joined(segments):
    return "".join(segment.text for segment in segments)


def test_llama3_conversation_is_written_as_the_model_was_trained():
    template = ChatTemplate(LLAMA3, bos_token="<|begin_of_text|>")
    segments = template.render([message("  Eres OKLA. ", "developer"), message("Klk")])
    assert joined(segments) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEres OKLA.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nKlk<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert [s.text for s in segments if not s.is_template] == ["Eres OKLA.", "Klk"]


@pytest.mark.parametrize("source", [LLAMA3, CHATML, GEMMA, MISTRAL])
@given(contents=st.lists(st.text(max_size=20), min_size=1, max_size=3))
def test_user_text_is_only_ever_in_segments_of_its_own(source, contents):
    template = ChatTemplate(source)
    roles = ["user", "assistant", "user"]
    messages = [message(c, roles[i]) for i, c in enumerate(contents)]
    plain = template.render([message("x", roles[i]) for i in range(len(contents))])
    segments = template.render(messages)
    assert [s.text for s in segments if s.is_template] == [s.text for s in plain if s.is_template]
    for segment in segments:
        assert (
            segment.is_template
            or segment.text in contents
            or segment.text in [c.strip() for c in contents]
        )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param(
            "{% for m in messages %}{{ m.content|upper }}{% endfor %}", "not supported", id="upper"
        ),
        pytest.param(
            "{% for m in messages %}{{ m.content|tojson }}{% endfor %}",
            "changes the text",
            id="tojson",
        ),
        pytest.param("{{ messages[-1].content[:9] }}", "not supported", id="cut"),
        pytest.param("hola", "leaves out", id="no message"),
        pytest.param("{% if %}", "no valid Jinja", id="syntax"),
        pytest.param("{{ raise_exception('never') }}", "never", id="always raises"),
        pytest.param("{{ ''.__class__.__mro__ }}", "unsafe", id="sandbox"),
        pytest.param("{{ messages.append(1) }}", "unsafe|not safely callable", id="mutation"),
        pytest.param("x" * 200_000, "allowed: 131072", id="too long"),
        pytest.param(
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "loop turns",
            id="endless",
        ),
        pytest.param("{{ 'a' * 10**9 }}", "operator", id="power and product"),
        pytest.param("{{ 'a' * 1000000000 }}", "operator", id="product"),
        pytest.param(
            "{% set ns = namespace(s='aaaaaaaa') %}"
            "{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            "characters",
            id="doubling",
        ),
        pytest.param(
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion", id="recursion"
        ),
        pytest.param(
            "{% for i in range(90000) %}aaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}",
            "characters of output",
            id="long output",
        ),
    ],
)
def test_unusable_template_is_refused_at_once(source, reason):
    started = time.perf_counter()
    with pytest.raises(ModelFileError, match=reason):
        ChatTemplate(source)
    assert time.perf_counter() - started < 2


def test_roles_that_the_template_refuses_are_the_clients_mistake():
    template = ChatTemplate(GEMMA)
    assert template.render([message("hola")])
    with pytest.raises(InvalidField, match="System role not supported"):
        template.render([message("eres OKLA", "system"), message("hola")])


def test_hash_names_the_template():
    assert ChatTemplate(LLAMA3).sha256 != ChatTemplate(CHATML).sha256
    assert ChatTemplate(LLAMA3, bos_token="a").sha256 == ChatTemplate(LLAMA3).sha256
