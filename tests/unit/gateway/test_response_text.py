"""Taking `response` out of a JSON answer that arrives in pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.gateway.response_text import ResponseText, response_of

# Lone surrogates included: JSON can spell them, UTF-8 cannot carry them.
texts = st.text(st.characters(exclude_categories=()) | st.characters(categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(texts | st.just("response"), inner, max_size=3)
    ),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)


def shown(text: str) -> str:
    """Replace each lone surrogate, as whoever writes UTF-8 must."""
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


@given(
    before=objects,
    response=texts,
    after=objects,
    indent=st.none() | st.just(2),
    ascii_only=st.booleans(),
    data=st.data(),
)
def test_any_object_in_any_pieces_gives_its_response(
    before: dict[str, object],
    response: str,
    after: dict[str, object],
    indent: int | None,
    ascii_only: bool,
    data: st.DataObject,
) -> None:
    whole = {**before, "response": response, **after}
    whole["response"] = response
    answer = json.dumps(whole, indent=indent, ensure_ascii=ascii_only)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=6)))
    extractor = ResponseText()
    pieces = [
        answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)
    ]
    got = "".join(extractor.feed(piece) for piece in pieces)
    assert extractor.found
    assert shown(got) == shown(json.loads(answer)["response"])


@given(response=texts, data=st.data())
def test_truncated_answer_gives_a_beginning_of_the_response(
    response: str, data: st.DataObject
) -> None:
    answer = json.dumps({"intent": "x", "response": response, "confidence": 0.5})
    cut = data.draw(st.integers(0, len(answer)))
    got = shown(ResponseText().feed(answer[:cut]))
    whole = shown(json.loads(answer)["response"])
    assert whole.startswith(got)
    if cut == len(answer):
        assert got == whole


@given(objects.filter(lambda o: not isinstance(o.get("response"), str)))
def test_answer_without_a_text_response_is_shown_whole(answer: dict[str, object]) -> None:
    text = json.dumps(answer)
    assert response_of(text) == text


@pytest.mark.parametrize(
    ("answer", "response"),
    [
        pytest.param('{"response": ""}', "", id="empty"),
        pytest.param('{"a": {"response": "no"}, "response": "yes"}', "yes", id="nested object"),
        pytest.param('{"a": [{"response": "no"}], "response": "yes"}', "yes", id="nested list"),
        pytest.param('{"a": "response", "response": "yes"}', "yes", id="name as a value"),
        pytest.param('{"resp\\u006fnse": "yes"}', "yes", id="escaped name"),
        pytest.param('{"a": "}\\"{,:", "response": "yes"}', "yes", id="structure in a text"),
        pytest.param('{"response": "\\ud83d\\ude00"}', "😀", id="surrogate pair"),
        pytest.param('{"response": "a\\ud83d", "b": "c"}', "a\ufffd", id="lone high surrogate"),
        pytest.param('{"response": "\\ud83d\\n"}', "\ufffd\n", id="high surrogate, then escape"),
        pytest.param('{"response": "\\ud83d\\u0041"}', "\ufffdA", id="high surrogate, then A"),
        pytest.param(
            '{"response": "\\ud83d\\ud83d\\ude00"}', "\ufffd😀", id="high surrogate, then a pair"
        ),
        pytest.param('{"response": "\\ude00x"}', "\ufffdx", id="lone low surrogate"),
        pytest.param('{"response": "\\q"}', "\ufffd", id="unknown escape"),
        pytest.param('{"response": "\\u00zz!"}', "\ufffd!", id="broken unicode escape"),
        pytest.param("Hola", "Hola", id="no JSON"),
        pytest.param('["response", "x"]', '["response", "x"]', id="list"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_response_of(answer: str, response: str) -> None:
    assert response_of(answer) == response
