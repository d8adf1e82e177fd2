"""llama.cpp as a judge: tokens, logits, greedy replies. The adapter to `llama_cpp`.

Serving has its own engine; this one runs one sequence at a time, to check files and measure models.
"""

import ctypes
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class GgufError(Exception):
    """llama.cpp cannot do what was asked of it with this file."""


try:
    import llama_cpp
    from llama_cpp.llama_grammar import json_schema_to_gbnf
except ImportError as err:
    raise GgufError(
        "llama-cpp-python is not installed; install it with: pip install 'carril[cpu]'"
    ) from err


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # a ctypes callback
def _silence(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Drop llama.cpp's log lines: results are checked, not read."""


def be_silent() -> None:
    """Keep llama.cpp from writing to stderr."""
    llama_cpp.llama_log_set(_silence, ctypes.c_void_p(0))


class Token(NamedTuple):
    """A generated token."""

    piece: bytes
    logprob: float
    """Of this token among all, before any grammar."""
    top: tuple[tuple[bytes, float], ...] = ()
    """The likeliest tokens at its place with their logprobs, best first."""


class Generation(NamedTuple):
    """A generated reply."""

    tokens: tuple[Token, ...]
    finished: bool
    """Whether the model ended it, rather than the limit."""
    first_token_s: float

    @property
    def text(self) -> str:
        """What was written."""
        return b"".join(t.piece for t in self.tokens).decode(errors="replace")


class Judge(Protocol):
    """Has a say beside the grammar about what comes next in one reply."""

    def allows(self, piece: bytes) -> bool: ...  # noqa: D102
    def accept(self, piece: bytes) -> None: ...  # noqa: D102


class GgufModel:
    """A GGUF file opened in llama.cpp on the CPU, with one context."""

    def __init__(
        self, path: Path, *, n_ctx: int = 1024, threads: int = 2, adapter: Path | None = None
    ) -> None:
        """Open a file, with an adapter over it or without; `open_gguf` fits a `with` block."""
        if not path.is_file():
            raise GgufError(f"There is no model file {str(path)!r}")
        be_silent()
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise GgufError(f"llama.cpp cannot load {str(path)!r}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise GgufError(f"llama.cpp cannot make a context for {str(path)!r}")
        if adapter is not None:
            self._lay_over(adapter)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.n_ctx = n_ctx
        self._prefix: tuple[int, ...] = ()

    def close(self) -> None:
        """Free context and weights; an adapter goes with the weights."""
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def chat_template(self) -> str | None:
        """Return the Jinja chat template that the file carries."""
        template: bytes | None = llama_cpp.llama_model_chat_template(self._model, None)
        return None if template is None else template.decode()

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Return the ids of a text, without adding any."""
        data = text.encode()
        room = len(data) + 8
        buffer = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(
            self._vocab, data, len(data), buffer, room, False, parse_special
        )
        return list(buffer[:count])

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; special ones are left out."""
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        room = 64 * (len(ids) + 1)
        buffer = ctypes.create_string_buffer(room)
        count = llama_cpp.llama_detokenize(
            self._vocab, tokens, len(ids), buffer, room, False, False
        )
        if count < 0:
            raise GgufError(f"{len(ids)} tokens need {-count} bytes of text")
        return buffer.raw[:count].decode(errors="replace")

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes of every token; control tokens have none."""
        return tuple(self._piece(token) for token in range(self.n_vocab))

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after every token of one sequence, (n_tokens, n_vocab) float32."""
        self._clear()
        self._decode(ids, 0, all_logits=True)
        return np.stack([self._row(i) for i in range(len(ids))])

    def generate(self, ids: Sequence[int], *, stop: int, max_tokens: int) -> list[int]:
        """Return the greedy continuation, without the stop token.

        Args:
            ids: The prompt.
            stop: Token that ends the reply.
            max_tokens: Longest reply; a longer one is cut there.
        """
        self._clear()
        self._decode(ids, 0)
        reply: list[int] = []
        while len(reply) < max_tokens:
            token = int(self._row(-1).argmax())
            if token == stop:
                break
            reply.append(token)
            self._decode([token], len(ids) + len(reply) - 1)
        return reply

    def reply(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int,
        n_prefix: int = 0,
        grammar: "Grammar | None" = None,
        judge: Judge | None = None,
        first_bias: Mapping[int, float] | None = None,
        n_top: int = 0,
    ) -> Generation:
        """Return the greedy reply with the probability of every token.

        Args:
            ids: The prompt.
            max_tokens: Longest reply; a longer one is cut there.
            n_prefix: Tokens at the front that are kept in memory for the next prompt, if it begins
                with the same ones. They are decoded apart, so an answer does not depend on which
                prompts came before it.
            grammar: What the reply must keep.
            judge: What else it must keep; asked about tokens that the grammar allows.
            first_bias: What is added to the logits of tokens at the reply's first place.
            n_top: Candidates to tell for every token.

        Raises:
            ValueError: If prompt and reply may not fit into the context.
        """
        if len(ids) + max_tokens > self.n_ctx:
            raise ValueError(
                f"a prompt of {len(ids)} and a reply of {max_tokens} tokens do not fit into "
                f"a context of {self.n_ctx}"
            )
        started = time.monotonic()
        self._keep_prefix(tuple(ids[:n_prefix]))
        self._decode(ids[n_prefix:], n_prefix)
        first_token_s = time.monotonic() - started
        tokens: list[Token] = []
        walk = grammar.start() if grammar is not None else None

        def may_come(token: int) -> bool:
            if judge is None or llama_cpp.llama_vocab_is_eog(self._vocab, token):
                return True
            # To the grammar a control token is the text of its name.
            piece = self._piece(token)
            return bool(piece) and judge.allows(piece)

        try:
            while len(tokens) < max_tokens:
                row = self._row(-1)
                if first_bias and not tokens:
                    row[list(first_bias)] += np.array(list(first_bias.values()), dtype=np.float32)
                token = int(row.argmax()) if walk is None else walk.best(row, may_come)
                if llama_cpp.llama_vocab_is_eog(self._vocab, token):
                    return Generation(tuple(tokens), True, first_token_s)
                if walk is not None:
                    walk.accept(token)
                if judge is not None:
                    judge.accept(self._piece(token))
                tokens.append(self._scored(row, token, n_top))
                self._decode([token], len(ids) + len(tokens) - 1)
            return Generation(tuple(tokens), False, first_token_s)
        finally:
            if walk is not None:
                walk.free()

    def grammar(self, schema: Mapping[str, object]) -> "Grammar":
        """Compile a JSON schema.

        Raises:
            GgufError: If llama.cpp cannot express it.
        """
        return Grammar(json_schema_to_gbnf(json.dumps(schema)), self._vocab)

    def _keep_prefix(self, prefix: tuple[int, ...]) -> None:
        if prefix and prefix == self._prefix:
            memory = llama_cpp.llama_get_memory(self._context)
            if llama_cpp.llama_memory_seq_rm(memory, 0, len(prefix), -1):
                return
        self._clear()
        if prefix:
            self._decode(prefix, 0)
            self._prefix = prefix

    def _lay_over(self, adapter: Path) -> None:
        if not adapter.is_file():
            raise GgufError(f"There is no adapter file {str(adapter)!r}")
        loaded = llama_cpp.llama_adapter_lora_init(self._model, str(adapter).encode())
        if not loaded:
            raise GgufError(f"llama.cpp cannot lay {str(adapter)!r} over this base")
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(loaded)
        if status := llama_cpp.llama_set_adapters_lora(
            self._context, adapters, 1, (ctypes.c_float * 1)(1.0)
        ):
            raise GgufError(f"llama_set_adapters_lora returned {status}")

    def _scored(self, row: NDArray[np.float32], token: int, n_top: int) -> Token:
        wide = row.astype(np.float64)
        peak = wide.max()
        norm = float(peak + np.log(np.exp(wide - peak).sum()))
        top: tuple[tuple[bytes, float], ...] = ()
        if n_top:
            best = np.argpartition(wide, -n_top)[-n_top:]
            best = best[np.lexsort((best, -wide[best]))]
            top = tuple((self._piece(int(i)), float(wide[i]) - norm) for i in best)
        return Token(self._piece(token), float(wide[token]) - norm, top)

    def _piece(self, token: int) -> bytes:
        room = 256
        buffer = ctypes.create_string_buffer(room)
        count = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
        if count < 0:
            raise GgufError(f"token {token} has a piece of {-count} bytes")
        return buffer.raw[:count]

    def _clear(self) -> None:
        self._prefix = ()
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def _row(self, index: int) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,)).copy()

    def _decode(self, ids: Sequence[int], start: int, *, all_logits: bool = False) -> None:
        if start + len(ids) > self.n_ctx:
            raise ValueError(f"{start + len(ids)} tokens do not fit into a context of {self.n_ctx}")
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for i, token in enumerate(ids):
                batch.token[i], batch.pos[i] = token, start + i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                batch.logits[i] = all_logits or i == len(ids) - 1
            if status := llama_cpp.llama_decode(self._context, batch):
                raise GgufError(f"llama_decode returned {status}")
        finally:
            llama_cpp.llama_batch_free(batch)


class Grammar:
    """A compiled grammar; it lives as long as the process, like the model it belongs to."""

    def __init__(self, gbnf: str, vocab: object) -> None:
        self._sampler = llama_cpp.llama_sampler_init_grammar(vocab, gbnf.encode(), b"root")
        if not self._sampler:
            raise GgufError("llama.cpp does not accept the grammar of the answer schema")

    def start(self) -> "GrammarWalk":
        """Return the state of one reply."""
        return GrammarWalk(llama_cpp.llama_sampler_clone(self._sampler))


class GrammarWalk:
    """How far one reply has come in its grammar."""

    def __init__(self, sampler: object) -> None:
        self._sampler = sampler
        self._one = (llama_cpp.llama_token_data * 1)()

    def best(
        self, row: NDArray[np.float32], may_come: Callable[[int], bool] = lambda _token: True
    ) -> int:
        """Return the likeliest token that may come next.

        Tokens are tried from the likeliest on: the first nearly always fits, and a check of one is
        a thousand times cheaper than one of the whole vocabulary.

        Args:
            row: Logits.
            may_come: What else a token must pass.

        Raises:
            GgufError: If none may.
        """
        first = int(row.argmax())
        if self._allows(first) and may_come(first):
            return first
        for token in np.argsort(-row):
            if self._allows(int(token)) and may_come(int(token)):
                return int(token)
        raise GgufError("the grammar allows no token here")

    def accept(self, token: int) -> None:
        """Step over a token that `best` returned; llama.cpp ends the process at another one."""
        llama_cpp.llama_sampler_accept(self._sampler, token)

    def free(self) -> None:
        """Free the state."""
        llama_cpp.llama_sampler_free(self._sampler)

    def _allows(self, token: int) -> bool:
        self._one[0].id, self._one[0].logit = token, 0.0
        array = llama_cpp.llama_token_data_array(self._one, 1, -1, False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return bool(self._one[0].logit == 0.0)


@contextmanager
def open_gguf(
    path: Path, *, n_ctx: int = 1024, threads: int = 2, adapter: Path | None = None
) -> Iterator[GgufModel]:
    """Open a GGUF file for the length of a `with` block.

    Args:
        path: The model.
        n_ctx: Longest sequence, in tokens.
        threads: CPU threads.
        adapter: A LoRA adapter in GGUF to lay over it at its full scale.

    Raises:
        GgufError: If a file is missing or llama.cpp refuses it.
    """
    model = GgufModel(path, n_ctx=n_ctx, threads=threads, adapter=adapter)
    try:
        yield model
    finally:
        model.close()
