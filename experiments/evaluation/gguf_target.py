"""A GGUF file as target: greedy, with or without a grammar, on this machine's CPU."""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from experiments.evaluation.errors import BadInput, TargetUnavailable
from experiments.evaluation.intents import (
    N_CANDIDATES,
    Candidate,
    ScoredToken,
    intent_probabilities,
    intent_probability,
)
from experiments.evaluation.items import Item
from experiments.evaluation.profile import Profile
from experiments.evaluation.report import TargetInfo
from experiments.evaluation.target import Reply
from experiments.grounding.answer import GroundedAnswer, grounded_answer
from experiments.intent_prior.bias import OpeningBias
from experiments.intent_prior.openings import tokens_that_open

if TYPE_CHECKING:
    from experiments.llama_runtime import GgufModel

MAX_REPLY_TOKENS = 256
"""The longest target has about 150 tokens; a reply that goes on has lost its way."""
_SMALL_BYTES = 128 << 20
"""Files below this are read by one thread."""


class GgufTarget:
    """A model file opened in llama.cpp.

    Args:
        path: The file. A manifest beside it (`NAME.manifest.json`) must have its hash.
        profile: Prompt and schema to ask with.
        grammar: Whether to force the schema.
        threads: CPU threads; 0 takes the cores this process may use, but one for a small model.
        n_ctx: Context length in tokens.

    Raises:
        BadInput: If the file is not the one of its manifest.
        PriorError: If it cannot be told which intent its first token names, and a prior needs to.
        TargetUnavailable: If llama.cpp is missing or refuses the file.
    """

    workers = 1

    def __init__(
        self,
        path: Path,
        profile: Profile,
        *,
        grammar: bool = True,
        threads: int = 0,
        n_ctx: int = 1024,
    ) -> None:
        # Without a grammar an answer need not begin with its intent, so nothing is added.
        self._bias = profile.bias if grammar else None
        self._info = _identify(path, grammar=grammar, bias=self._bias)
        try:
            from experiments.llama_runtime import GgufError, GgufModel
        except Exception as err:
            # The adapter raises its own error type when llama_cpp is missing.
            raise TargetUnavailable(str(err)) from err
        self._failures = GgufError
        try:
            self._model = GgufModel(path, n_ctx=n_ctx, threads=threads or _threads_for(path))
            self._grammar = self._model.grammar(profile.answer_schema) if grammar else None
        except GgufError as err:
            raise TargetUnavailable(str(err)) from err
        self._profile = profile
        self._schema = json.dumps(profile.answer_schema)
        template = self._model.chat_template() or profile.chat_template
        self._prompts = _PromptEncoder(template, self._model)
        self._n_prefix = self._prompts.common_prefix(profile.system_prompt)
        self._opening_tokens: dict[str, tuple[int, ...]] = {}
        if self._bias is not None:
            self._opening_tokens = tokens_that_open(self._bias.openings, self._model.pieces)

    def answer(self, item: Item) -> Reply:
        """Ask one item."""
        started = time.monotonic()
        try:
            messages = item.prompt(self._profile.system_prompt)
            ids = self._prompts.encode(messages)
            generation = self._model.reply(
                ids,
                max_tokens=MAX_REPLY_TOKENS,
                n_prefix=self._prompts.shared(ids, self._n_prefix),
                grammar=self._grammar,
                judge=self._judge(messages),
                first_bias=self._first_bias(messages),
                n_top=N_CANDIDATES,
            )
        except (ValueError, TemplateError, self._failures) as err:
            return Reply(error=f"{type(err).__name__}: {err}", latency_s=time.monotonic() - started)
        tokens = [
            ScoredToken(t.piece, t.logprob, tuple(Candidate(*other) for other in t.top))
            for t in generation.tokens
        ]
        return Reply(
            text=generation.text,
            finished=generation.finished,
            probability=intent_probability(tokens),
            probabilities=intent_probabilities(tokens, self._profile.intents),
            latency_s=time.monotonic() - started,
            ttft_s=generation.first_token_s,
            completion_tokens=len(tokens),
        )

    def info(self) -> TargetInfo:
        """Say what was measured."""
        return self._info

    def _judge(self, messages: Sequence[Mapping[str, str]]) -> GroundedAnswer | None:
        # As the engine does it; without a grammar an answer need be no JSON.
        if self._grammar is None:
            return None
        return grounded_answer(messages, self._schema, self._profile.options.grounding)

    def _first_bias(self, messages: Sequence[Mapping[str, str]]) -> dict[int, float] | None:
        # As the replica does it.
        bias = self._bias
        if bias is None:
            return None
        said = [message["content"] for message in messages if message["role"] == "user"]
        return {
            token: value
            for text, value in (bias.of(said[-1]) if said else {}).items()
            for token in self._opening_tokens[text]
        }

    def close(self) -> None:
        """Free the model."""
        self._model.close()


class _PromptEncoder:
    """Renders the chat template so that what people write never becomes a control token.

    Each message's text is a placeholder while the template runs; only the template's own text is
    tokenised with the names of special tokens.
    """

    def __init__(self, template: str, model: "GgufModel") -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        try:
            self._template = environment.from_string(template)
        except TemplateError as err:
            raise TargetUnavailable(f"The chat template is no valid Jinja: {err}") from err
        self._model = model
        self._system: tuple[int, ...] = ()

    def encode(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the prompt up to where the assistant's answer begins."""
        mark = secrets.token_hex(16)
        shown = [
            {"role": message["role"], "content": f"{mark}{index:06d}"}
            for index, message in enumerate(messages)
        ]
        text = self._template.render(messages=shown, add_generation_prompt=True)
        first, *rest = text.split(mark)
        ids = self._model.tokenize(first, parse_special=True)
        for part in rest:
            content = messages[int(part[:6])]["content"].strip()
            ids += self._model.tokenize(content)
            ids += self._model.tokenize(part[6:], parse_special=True)
        return ids

    def common_prefix(self, system_prompt: str) -> int:
        """Remember the tokens that prompts without inventory begin with; return how many."""
        system = {"role": "system", "content": system_prompt}
        one = self.encode([system, {"role": "user", "content": "a"}])
        other = self.encode([system, {"role": "user", "content": "¿z?"}])
        same = 0
        while same < min(len(one), len(other)) and one[same] == other[same]:
            same += 1
        self._system = tuple(one[:same])
        return same

    def shared(self, ids: Sequence[int], n_prefix: int) -> int:
        """Return how many tokens at the front may be kept for the next prompt."""
        return n_prefix if tuple(ids[:n_prefix]) == self._system and len(ids) > n_prefix else 0


def _identify(path: Path, *, grammar: bool, bias: OpeningBias | None) -> TargetInfo:
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise BadInput(f"Cannot read the model {str(path)!r}: {err.strerror}") from err
    name, version = path.name.removesuffix(".gguf"), None
    manifest = path.with_name(f"{path.name.split('.', 1)[0]}.manifest.json")
    if manifest.is_file():
        name, version = _check_manifest(manifest, path, actual)
    return TargetInfo(
        kind="gguf",
        name=name,
        version=version,
        sha256=actual,
        grammar=grammar,
        prior_sha256=None if bias is None else bias.sha256,
    )


def _check_manifest(manifest: Path, model: Path, actual: str) -> tuple[str, str | None]:
    try:
        record = json.loads(manifest.read_text(encoding="utf-8"))
        file, expected = record["file"], record["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise BadInput(f"Cannot use the manifest {str(manifest)!r}: {err!r}") from err
    if file != model.name:
        return model.name.removesuffix(".gguf"), None
    if expected != actual:
        raise BadInput(
            f"{model.name} has SHA-256 {actual}, its manifest says {expected}",
            "measure the file that the manifest describes, or export the model again",
        )
    return str(record.get("name", model.stem)), record.get("version")


def _threads_for(path: Path) -> int:
    # Threads meet after every matrix product, spinning. In a small model that takes longer than the
    # product, and on a busy machine a hundred times longer.
    small = path.stat().st_size < _SMALL_BYTES
    return 1 if small else max(1, len(os.sched_getaffinity(0)))
