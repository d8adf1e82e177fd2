"""Streaming text: whole characters, stop strings, and nothing lost."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.llama_cpp.text import (
    TextStream,
    is_utf8_fragment,
    is_utf8_start,
    unfinished_tail,
)


def run(parts, stop=()):
    stream = TextStream(stop)
    pieces = []
    for part in parts:
        text, stopped = stream.push(part)
        pieces.append(text)
        if stopped:
            return pieces, True
    text, stopped = stream.finish()
    return [*pieces, text], stopped


def cut(data, cuts):
    edges = [0, *sorted(cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(text=st.text(max_size=30), data=st.data())
def test_any_cutting_of_text_comes_out_whole(text, data):
    encoded = text.encode()
    cuts = data.draw(st.lists(st.integers(0, len(encoded)), max_size=12))
    pieces, stopped = run(cut(encoded, cuts))
    assert "".join(pieces) == text
    assert not stopped
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


@given(
    text=st.text("abc", max_size=30),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    data=st.data(),
)
def test_text_ends_before_the_first_stop_string(text, stop, data):
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
    pieces, stopped = run(cut(text.encode(), cuts), tuple(stop))
    sent = "".join(pieces)
    assert text.startswith(sent)
    assert stopped is any(s in text for s in stop)
    if not stopped:
        assert sent == text
    else:
        assert not any(s in sent for s in stop)
        assert any(text[len(sent) :].startswith(s) for s in stop)


@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=8))
def test_any_bytes_become_valid_text_independent_of_the_cutting(data, cuts):
    pieces, _ = run(cut(data, [c for c in cuts if c <= len(data)]))
    assert "".join(pieces) == data.decode("utf-8", "replace")


def test_unfinished_character_at_the_end_is_one_replacement_character():
    assert run([b"a", "🚗".encode()[:3]])[0] == ["a", "", "\ufffd"]


def test_held_back_text_is_sent_when_it_turns_out_not_to_be_a_stop():
    assert run([b"a", b"\n", b"\n", b"b"], ("\n\nUser",))[0] == ["a", "", "", "\n\nb", ""]


@pytest.mark.parametrize(
    ("data", "fragment", "start"),
    [
        pytest.param(b"abc", True, True, id="ascii"),
        pytest.param("ñ".encode()[1:], True, False, id="end of a character"),
        pytest.param("ñ".encode()[:1], True, True, id="start of a character"),
        pytest.param(b"\xc3a", False, False, id="broken inside"),
        pytest.param(b"\xff", False, False, id="never in UTF-8"),
        pytest.param(b"\xe0\x80", False, False, id="overlong"),
        pytest.param(b"\xed\xa0\x80", False, False, id="surrogate"),
    ],
)
def test_fragments_of_utf8(data, fragment, start):
    assert is_utf8_fragment(data) is fragment
    assert is_utf8_start(data) is start


@given(st.text(min_size=1, max_size=5), st.integers(0, 3))
def test_tail_is_the_bytes_of_the_character_that_is_not_whole(text, drop):
    data = text.encode()
    last = text[-1].encode()
    kept = max(len(last) - drop, 1)
    cut_data = data[: len(data) - len(last) + kept]
    assert unfinished_tail(cut_data) == (last[:kept] if kept < len(last) else b"")
