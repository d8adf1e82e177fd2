"""Conversations as token ids: the chat template by hand, and which tokens to learn."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from training.answer_tokens import intent_opening
from training.contract import system_prompt
from training.data.generator import Message
from training.tokenizer import BOS, EOT, HEADER_END, HEADER_START, special_id

ASSISTANT = "assistant"
SYSTEM = "system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A tokenised conversation."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]
    """Whether the model should learn to write the token; same length as `ids`."""


class ChatEncoder:
    """Encodes conversations as `chat_template.jinja` renders them.

    Text of users is tokenised apart from the markup, so that a typed `<|eot_id|>` stays text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Special tokens inside text must stay text; the markup is added by id below.
        plain = Tokenizer.from_str(tokenizer.to_str())
        plain.encode_special_tokens = True
        self._tokenizer = plain
        self._bos, self._start, self._end, self.eot_id = (
            special_id(tokenizer, t) for t in (BOS, HEADER_START, HEADER_END, EOT)
        )
        self._break = self.text_ids("\n\n")
        self.system_ids: tuple[int, ...] = (self._bos, *self._message(SYSTEM, system_prompt()))
        """What a conversation without inventory begins with."""
        # What follows the prompt in a system message merges with its last piece, the full stop.
        self.shared_ids: tuple[int, ...] = self.system_ids[:-2]
        """What every conversation begins with."""
        self.around_ids: tuple[int, ...] = (
            *self.system_ids,
            *self._message("user", ""),
            *self._header(ASSISTANT),
        )
        """What stands around a single message; the answer follows."""
        self.n_after = 1 + len(self._header(ASSISTANT))
        """How many of those, the last ones, stand after the message."""

    def text_ids(self, text: str) -> list[int]:
        """Return the ids of plain text; nothing in it becomes a special token."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def prompt_ids(
        self, messages: Sequence[Message], *, max_tokens: int | None = None
    ) -> list[int]:
        """Return system prompt, messages and the opening of the reply.

        Args:
            messages: Perhaps a system message, then turns; a user's message at the end.
            max_tokens: Longest prompt; the oldest turns are dropped until it fits, the last
                message never.
        """
        opening, turns = self._opening(messages)
        parts = [self._message(m.role, m.content) for m in turns]
        header = self._header(ASSISTANT)
        if max_tokens is not None:
            room = max_tokens - len(opening) - len(header)
            while len(parts) > 1 and sum(map(len, parts)) > room:
                parts = parts[2:]
        return [*opening, *(token for part in parts for token in part), *header]

    def encode(
        self, messages: Sequence[Message], *, max_tokens: int, is_intent_given: bool = False
    ) -> Encoded:
        """Return a conversation for training, its oldest turns dropped until it fits.

        Args:
            messages: Perhaps a system message, then user and assistant in turns; the last one is
                the answer to learn.
            max_tokens: Longest sequence.
            is_intent_given: Whether only what follows the intent of the last answer is learnt.

        Raises:
            ValueError: If not even the last turn fits.
        """
        opening, turns = self._opening(messages)
        for first in range(0, len(turns) - 1, 2):
            encoded = self._encode(opening, turns[first:])
            if len(encoded.ids) <= max_tokens:
                return self._after_intent(encoded, messages[-1]) if is_intent_given else encoded
        raise ValueError(f"The last turn does not fit into {max_tokens} tokens: {messages[-2]!r}")

    def opening_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return everything before the last question of a conversation.

        Args:
            messages: As for `encode`.
        """
        opening, turns = self._opening(messages)
        return (*opening, *(t for m in turns[:-2] for t in self._message(m.role, m.content)))

    def encode_intent(self, text: str, intent: str) -> Encoded:
        """Return the exercise of naming the intent of one message, as the answer begins.

        Args:
            text: What a customer wrote.
            intent: Its intent.
        """
        question = [*self.system_ids, *self._message("user", text), *self._header(ASSISTANT)]
        learn = [False] * len(question) + [True]
        return Encoded(ids=(*question, self.intent_id(intent)), learn=tuple(learn))

    def intent_id(self, intent: str) -> int:
        """Return the token with which an answer of this intent begins."""
        (token,) = self.text_ids(intent_opening(intent))
        return token

    def _after_intent(self, encoded: Encoded, answer: Message) -> Encoded:
        # The answer's tokens and the end of the turn are the last ones; its first is the intent.
        n_unlearnt = len(encoded.ids) - len(self.text_ids(answer.content.strip()))
        learn = (False,) * n_unlearnt + encoded.learn[n_unlearnt:]
        return Encoded(ids=encoded.ids, learn=learn)

    def _opening(self, messages: Sequence[Message]) -> tuple[tuple[int, ...], Sequence[Message]]:
        if messages[0].role != SYSTEM:
            return self.system_ids, messages
        opening = (self._bos, *self._message(SYSTEM, messages[0].content))
        if opening[: len(self.shared_ids)] != self.shared_ids:
            raise ValueError(f"A system message must begin with the prompt: {messages[0]!r}")
        return opening, messages[1:]

    def _encode(self, opening: Sequence[int], messages: Sequence[Message]) -> Encoded:
        ids = list(opening)
        learn = [False] * len(ids)
        for message in messages:
            # Earlier replies may be plain text, which the model must never write.
            is_target = message.role == ASSISTANT and message.content.startswith("{")
            header = self._header(message.role)
            body = [*self.text_ids(message.content.strip()), self.eot_id]
            ids += header + body
            learn += [False] * len(header) + [is_target] * len(body)
        return Encoded(ids=tuple(ids), learn=tuple(learn))

    def _message(self, role: str, content: str) -> list[int]:
        return [*self._header(role), *self.text_ids(content.strip()), self.eot_id]

    def _header(self, role: str) -> list[int]:
        return [self._start, *self.text_ids(role), self._end, *self._break]
