"""From a request to token ids, with the bounds checked before anything is computed."""

import hashlib
import itertools
from collections.abc import Iterable
from typing import Protocol

from serve_app.engines.chat_template import ChatTemplate
from serve_app.engines.protocol import GenerationRequest, Message
from serve_app.errors import ContextLengthExceeded, InvalidField


class Tokenizer(Protocol):
    """What is needed of a model's tokenizer; every engine has its own."""

    n_tokens: int
    bos: int
    add_bos: bool

    def tokenize(self, text: str, *, parse_special: bool) -> tuple[int, ...]:
        """Return the token ids of a text, without BOS."""
        ...

    def too_long(self, n_bytes: int, n_ctx: int) -> bool:
        """Tell whether a text of so many bytes cannot fit, before tokenising it."""
        ...


class Prompter:
    """Makes prompts for one model.

    Args:
        vocabulary: The model's tokenizer.
        template: How conversations are written; None for a model that only completes text.
        n_ctx: Tokens that prompt and answer may have together.
    """

    def __init__(self, vocabulary: Tokenizer, template: ChatTemplate | None, *, n_ctx: int) -> None:
        self._vocabulary = vocabulary
        self._template = template
        self._n_ctx = n_ctx

    @property
    def template_sha256(self) -> str:
        """Hash of the chat template, that of the empty text if there is none."""
        if self._template is None:
            return hashlib.sha256(b"").hexdigest()
        return self._template.sha256

    def tokens_of(self, request: GenerationRequest) -> tuple[int, ...]:
        """Return the prompt's tokens.

        Raises:
            InvalidField: If there is nothing to answer, or a token id that the model does not have.
            ContextLengthExceeded: If no room for the answer is left.
        """
        if (request.prompt is None) == (not request.messages):
            raise InvalidField("give exactly one of messages and prompt", "messages")
        tokens = (
            self.chat(request.messages)
            if request.prompt is None
            else self.completion(request.prompt)
        )
        room = 1 if request.sampling.max_tokens > 0 else 0
        if len(tokens) + room > self._n_ctx:
            raise self._too_long(len(tokens), request)
        return tokens

    def chat(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        """Return the tokens of a conversation, up to where the answer begins.

        Raises:
            InvalidField: If the model has no template, or it refuses these roles.
            ContextLengthExceeded: If the texts cannot possibly fit.
        """
        if self._template is None:
            raise InvalidField("this model has no chat template: use /v1/completions", "messages")
        self._check_bytes(message.content for message in messages)
        tokens: list[int] = []
        for text, is_template in self._template.render(messages):
            tokens += self._vocabulary.tokenize(text, parse_special=is_template)
        return self._with_bos(tokens)

    def opening(self, system_prompt: str) -> tuple[int, ...]:
        """Return the tokens that all conversations with this system prompt begin with.

        They are empty if the model has no template, one that knows no system role, or no room.
        """
        asked = [
            (Message(role="system", content=system_prompt), Message(role="user", content=text))
            for text in ("a", "b")
        ]
        if self._template is None:
            return ()
        try:
            pairs = zip(self.chat(asked[0]), self.chat(asked[1]), strict=False)
        except (InvalidField, ContextLengthExceeded):
            return ()
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
        return tuple(token for token, _ in same)

    def completion(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        """Return the tokens of a plain prompt; names of special tokens in it are just text.

        Raises:
            InvalidField: If it is empty, or has a token id that the model does not have.
            ContextLengthExceeded: If the text cannot possibly fit.
        """
        if isinstance(prompt, str):
            self._check_bytes([prompt])
            tokens = self._with_bos(list(self._vocabulary.tokenize(prompt, parse_special=False)))
        else:
            n = self._vocabulary.n_tokens
            for token in prompt:
                if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < n:
                    raise InvalidField(f"token id {token!r}; allowed: 0 to {n - 1}", "prompt")
            tokens = tuple(prompt)
        if not tokens:
            raise InvalidField("the prompt is empty", "prompt")
        return tokens

    def _with_bos(self, tokens: list[int]) -> tuple[int, ...]:
        bos = self._vocabulary.bos
        if self._vocabulary.add_bos and tokens[:1] != [bos]:
            return (bos, *tokens)
        return tuple(tokens)

    def _check_bytes(self, texts: Iterable[str]) -> None:
        # Spares the tokenizer megabytes that cannot fit whatever they are.
        n_bytes = sum(len(text.encode("utf-8", "replace")) for text in texts)
        if self._vocabulary.too_long(n_bytes, self._n_ctx):
            raise ContextLengthExceeded(
                f"the prompt has {n_bytes} bytes of text and cannot fit into a context of "
                f"{self._n_ctx} tokens",
                "messages",
            )

    def _too_long(self, n_tokens: int, request: GenerationRequest) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"the prompt has {n_tokens} tokens; the context of {self._n_ctx} tokens must hold it "
            "and at least one token of the answer",
            "messages" if request.prompt is None else "prompt",
        )
