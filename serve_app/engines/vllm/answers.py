"""From what vLLM returns of a request to the chunks of its answer."""

from collections.abc import Iterator
from typing import Any

from serve_app.engines.llama_cpp.answer import Answer
from serve_app.engines.protocol import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    TokenLogprob,
    TopLogprob,
)
from serve_app.engines.vllm.vocabulary import HfVocabulary
from serve_app.errors import EngineFailed

Candidates = dict[int, Any]  # token id -> vllm.logprobs.Logprob


class AnswerStream:
    """Turns vLLM's outputs for one request into chunks.

    Args:
        request: What was asked.
        tokens: Its prompt.
        vocabulary: For the texts.
    """

    def __init__(
        self, request: GenerationRequest, tokens: tuple[int, ...], vocabulary: HfVocabulary
    ) -> None:
        self._vocabulary = vocabulary
        self._tokens = tokens
        self._n_top = request.sampling.logprobs
        self._max_tokens = request.sampling.max_tokens
        echo = ""
        if request.echo:
            prompt = request.prompt
            echo = prompt if isinstance(prompt, str) else vocabulary.text(tokens)
        # A stop string could cut a JSON answer short, and its "stop" would then be a lie.
        stop = () if request.json_schema is not None else request.sampling.stop
        self.answer = Answer(len(tokens), stop, echo)
        self.finished = False

    def chunks(self, output: Any) -> Iterator[GenerationChunk]:
        """Yield the chunks that an output makes; the last one of an answer ends it.

        Args:
            output: A `vllm.RequestOutput` with the new tokens only.

        Raises:
            EngineFailed: If vLLM gave the request up.
        """
        completion = output.outputs[0]
        reason: str | None = completion.finish_reason
        if reason not in (None, "stop", "length"):
            raise EngineFailed(f"vLLM ended this answer with {reason!r}")
        self.answer.cached_tokens = output.num_cached_tokens or self.answer.cached_tokens
        if output.prompt_logprobs and not self.answer.prompt_logprobs:
            self.answer.prompt_logprobs += self._prompt_entries(output.prompt_logprobs)
        if self._max_tokens == 0:  # vLLM computes one token at least; it was not asked for
            yield self._end("length")
            return
        logprobs = completion.logprobs or [None] * len(completion.token_ids)
        for token, candidates in zip(completion.token_ids, logprobs, strict=True):
            if token in self._vocabulary.eog:
                yield self._end("stop")
                return
            entry = None if candidates is None else self._entry(token, candidates)
            chunk = self.answer.add(self._vocabulary.pieces[token], entry)
            if chunk is not None:
                self.finished = chunk.finish_reason is not None
                yield chunk
            if self.finished:
                return
        if reason is not None:
            yield self._end("length" if reason == "length" else "stop")

    def _end(self, reason: FinishReason) -> GenerationChunk:
        self.finished = True
        return self.answer.end(reason)

    def _prompt_entries(self, positions: list[Candidates | None]) -> list[TokenLogprob]:
        first = self._vocabulary.name(self._tokens[0])
        entries = [
            TokenLogprob(token=first.decode("utf-8", "replace"), token_bytes=first, logprob=None)
        ]
        following = zip(self._tokens[1:], positions[1:], strict=True)
        entries += [self._entry(token, found or {}) for token, found in following]
        return entries

    def _entry(self, token: int, candidates: Candidates) -> TokenLogprob:
        n_top = self._n_top or 0
        best = sorted(
            (c.rank, other, c.logprob)
            for other, c in candidates.items()
            # Under a grammar, tokens that may not come next have no probability at all.
            if c.rank is not None and c.rank <= n_top and c.logprob > float("-inf")
        )
        name = self._vocabulary.name(token)
        own = candidates.get(token)
        return TokenLogprob(
            token=name.decode("utf-8", "replace"),
            token_bytes=name,
            logprob=None if own is None else float(own.logprob),
            top=tuple(self._top(other, float(logprob)) for _, other, logprob in best[:n_top]),
        )

    def _top(self, token: int, logprob: float) -> TopLogprob:
        name = self._vocabulary.name(token)
        return TopLogprob(token=name.decode("utf-8", "replace"), token_bytes=name, logprob=logprob)
