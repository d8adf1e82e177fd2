"""What one request has produced so far, and the chunks it becomes."""

from serve_app.engines.llama_cpp.text import TextStream
from serve_app.engines.protocol import FinishReason, GenerationChunk, TokenLogprob, Usage


class Answer:
    """Turns tokens into chunks: text, log-probabilities of just that text, usage.

    Args:
        prompt_tokens: Length of the prompt.
        stop: Strings that end the answer.
        echo: Text of the prompt to send first, if asked for.
    """

    def __init__(self, prompt_tokens: int, stop: tuple[str, ...], echo: str = "") -> None:
        self.cached_tokens = 0
        self.prompt_logprobs: list[TokenLogprob] = []
        self.n_tokens = 0
        self._prompt_tokens = prompt_tokens
        self._text = TextStream(stop)
        self._echo = echo
        self._held: list[tuple[int, TokenLogprob]] = []
        self._began = False

    @property
    def looks_for_stops(self) -> bool:
        """Whether some text ends the answer, so that each token must be added by itself."""
        return self._text.looks_for_stops

    def add(
        self, piece: bytes, logprob: TokenLogprob | None, n_tokens: int = 1
    ) -> GenerationChunk | None:
        """Add a token, or several; return a chunk if there is something to send.

        Args:
            piece: Its bytes, or theirs.
            logprob: Its log-probability; of several tokens there is none.
            n_tokens: How many they are.

        Returns:
            A chunk, final if a stop string was completed; None while all is held back.
        """
        self.n_tokens += n_tokens
        if logprob is not None:
            self._held.append((self._text.n_decoded, logprob))
        text, stopped = self._text.push(piece)
        if stopped:
            return self._chunk(text, "stop")
        if not text and self._began:
            return None
        return self._chunk(text, None)

    def end(self, reason: FinishReason) -> GenerationChunk:
        """Return the final chunk, with all that was held back."""
        text, stopped = self._text.finish()
        if not stopped:
            return self._chunk(text, reason, everything=True)
        return self._chunk(text, "stop")

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self.n_tokens,
            cached_tokens=self.cached_tokens,
        )

    def _chunk(
        self, text: str, reason: FinishReason | None, *, everything: bool = False
    ) -> GenerationChunk:
        # A token's entry goes out with the first of its text. Tokens that lie wholly inside a stop
        # string have no text in the answer, and no entry either.
        sent = self._text.n_sent
        logprobs = tuple(entry for start, entry in self._held if everything or start < sent)
        self._held = [] if reason else [held for held in self._held if held[0] >= sent]
        first = not self._began
        self._began = True
        return GenerationChunk(
            text=text,
            usage=self.usage,
            logprobs=logprobs,
            finish_reason=reason,
            prompt_text=self._echo if first else "",
            prompt_logprobs=tuple(self.prompt_logprobs) if first else (),
        )
