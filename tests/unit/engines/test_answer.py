"""Chunks carry the log-probabilities of just their text."""

from serve_app.engines.llama_cpp.answer import Answer
from serve_app.engines.protocol import TokenLogprob


def entry(data: bytes) -> TokenLogprob:
    return TokenLogprob(token=data.decode("utf-8", "replace"), token_bytes=data, logprob=-1.0)


def feed(answer, pieces):
    return [chunk for piece in pieces if (chunk := answer.add(piece, entry(piece))) is not None]


def test_tokens_inside_the_stop_string_have_no_entry():
    answer = Answer(3, ("END",))
    chunks = feed(answer, [b"hi ", b"yo", b"E", b"ND"])
    assert [chunk.text for chunk in chunks] == ["hi ", "yo", ""]
    assert [e.token for chunk in chunks for e in chunk.logprobs] == ["hi ", "yo"]
    assert chunks[-1].finish_reason == "stop"


def test_entries_wait_for_their_character():
    answer = Answer(1, ())
    first, second = "ñ".encode()[:1], "ñ".encode()[1:]
    chunks = feed(answer, [b"a", first, second])
    assert [chunk.text for chunk in chunks] == ["a", "ñ"]
    assert [len(chunk.logprobs) for chunk in chunks] == [1, 2]


def test_end_sends_all_that_was_held_back():
    answer = Answer(1, ("xyz",), echo="prompt")
    (chunk,) = feed(answer, [b"ax"])
    assert (chunk.text, chunk.prompt_text) == ("a", "prompt")
    last = answer.end("length")
    assert (last.text, last.finish_reason, last.prompt_text) == ("x", "length", "")
    assert last.usage.completion_tokens == 1
