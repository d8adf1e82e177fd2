"""Conversations as token ids under any chat template, and which tokens to learn.

The template is rendered with a placeholder for the text of each message and cut there, as serving
does it: names of special tokens count in the template's own text only. What is trained is then
token for token what is served, and a typed `<|eot_id|>` stays text.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from training.chat import Encoded
from training.contract import system_prompt
from training.errors import ConfigError
from training.lora.base import Base
from training.lora.config import SystemPrompt
from training.lora.dataset import Example, Turn

_PLACE = "Carril7Place{}End"
_PLACES = re.compile(_PLACE.format("([0-9]+)"))
_PROBE = " ¿Ñ 'a\" {{ 7*7 }} <|x|> & 1? "
"""A text that escaping, casing or cutting would change."""


class EncodedExample(NamedTuple):
    """A conversation and what it lost."""

    encoded: Encoded
    n_dropped_turns: int


class TemplateEncoder:
    """Encodes conversations for one base.

    Args:
        base: Tokenizer and template.
        prompt: What conversations without a system message get.

    Raises:
        ConfigError: If the template changes what people write, or ends an answer without the token
            that stops generation.
    """

    def __init__(self, base: Base, *, prompt: SystemPrompt) -> None:
        self._markup = Tokenizer.from_file(str(base.tokenizer_path))
        self._plain = Tokenizer.from_file(str(base.tokenizer_path))
        self._plain.encode_special_tokens = True
        for tokenizer in (self._markup, self._plain):
            tokenizer.no_padding()
            tokenizer.no_truncation()
        self._renderer = PreTrainedTokenizerFast(
            tokenizer_object=self._markup,
            chat_template=base.template,
            bos_token=base.bos,
            eos_token=base.eos,
        )
        self._prompt = system_prompt() if prompt is SystemPrompt.PROFILE else None
        self.eos_id, self._eos = base.vocabulary.eos_id, base.eos
        self._stripped_roles: set[str] = set()
        self._check()

    def text_ids(self, text: str) -> list[int]:
        """Return the ids of plain text; nothing in it becomes a special token."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        """Return the ids up to where the next answer begins.

        Args:
            turns: Ends with what a user wrote.
        """
        return self._ids(self._opened(turns))

    def encode(self, example: Example, *, max_tokens: int) -> "EncodedExample":
        """Return a conversation with its last answer to learn, its oldest turns dropped to fit.

        Raises:
            ValueError: If not even the last turn fits.
        """
        opened = self._opened(example.messages)
        head = opened[:1] if opened[0].role == "system" else []
        turns = opened[len(head) :]
        for first in range(0, len(turns) - 1, 2):
            encoded = self._encode([*head, *turns[first:]])
            if len(encoded.ids) <= max_tokens:
                return EncodedExample(encoded, first)
        raise ValueError(f"the last turn has more than max_tokens {max_tokens} tokens")

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of an answer, special tokens left out."""
        text: str = self._markup.decode(list(ids), skip_special_tokens=True)
        return text

    def _opened(self, turns: Sequence[Turn]) -> list[Turn]:
        if self._prompt is None or turns[0].role == "system":
            return list(turns)
        return [Turn(role="system", content=self._prompt), *turns]

    def _encode(self, turns: Sequence[Turn]) -> Encoded:
        prompt = self._ids(turns[:-1])
        # What the template writes after the token that ends an answer is never generated.
        answer = [*self._turn_ids(turns[-1]), self.eos_id]
        learn = [False] * len(prompt) + [True] * len(answer)
        return Encoded(ids=(*prompt, *answer), learn=tuple(learn))

    def _ids(self, turns: Sequence[Turn]) -> list[int]:
        places = [
            turn.model_copy(update={"content": _PLACE.format(i)}) for i, turn in enumerate(turns)
        ]
        ids: list[int] = []
        # One capturing group: template text and numbers of messages come in turn.
        for number, part in enumerate(_PLACES.split(self._render(places, generation=True))):
            if number % 2:
                ids += self._turn_ids(turns[int(part)])
            else:
                ids += self._markup.encode(part, add_special_tokens=False).ids
        return ids

    def _turn_ids(self, turn: Turn) -> list[int]:
        stripped = turn.role in self._stripped_roles
        return self.text_ids(turn.content.strip() if stripped else turn.content)

    def _render(self, turns: Sequence[Turn], *, generation: bool) -> str:
        rendered: str = self._renderer.apply_chat_template(
            [turn.model_dump() for turn in turns],
            tokenize=False,
            add_generation_prompt=generation,
        )
        return rendered

    def _check(self) -> None:
        """Make sure that the template places messages as they are, and ends answers by eos."""
        turns = [
            Turn(role=role, content=f"{_PROBE}{i} ")
            for i, role in enumerate(("system", "user", "assistant", "user"))
        ]
        if self._prompt is None:
            turns = turns[1:]
        plain = self._render(turns, generation=True)
        shown = list(turns)
        for role in {turn.role for turn in turns}:
            stripped = [
                t.model_copy(update={"content": t.content.strip()}) if t.role == role else t
                for t in turns
            ]
            if self._render(stripped, generation=True) == plain:
                self._stripped_roles.add(role)
                shown = [s if s.role == role else t for s, t in zip(stripped, shown, strict=True)]
        places = [Turn(role=t.role, content=_PLACE.format(i)) for i, t in enumerate(turns)]
        spliced = _PLACES.sub(
            lambda match: shown[int(match[1])].content, self._render(places, generation=True)
        )
        if spliced != plain:
            raise ConfigError("The chat template changes the text of messages: not supported")
        question, answer = turns[-1], Turn(role="assistant", content=_PLACE.format(0))
        before = self._render([question], generation=True)
        whole = self._render([question, answer], generation=False)
        ending = whole.removeprefix(before).partition(_PLACE.format(0))
        eos = self._eos
        if not whole.startswith(before) or ending[0] or not ending[2].startswith(eos):
            raise ConfigError(
                f"The chat template does not write an answer right after the generation prompt and "
                f"end it by {eos!r}: {whole[len(before) :][:80]!r}"
            )
