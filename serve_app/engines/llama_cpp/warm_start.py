"""The assistant's system prompt is in KV memory before the first request, and stays there.

It is computed while the model loads, or read from disk if an earlier load left it there. Every
request shares it, of whatever tenant: it is the operator's text, not theirs. Nothing else is ever
written to disk, for KV memory of a conversation is as private as its text.
"""

import logging
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from serve_app.config import ModelConfig
from serve_app.engines.llama_cpp.binding import SUPPORTED_VERSION
from serve_app.engines.llama_cpp.context import Context, Rows
from serve_app.engines.llama_cpp.kv import KvPool
from serve_app.engines.llama_cpp.kv_bytes import read_kv, write_kv
from serve_app.engines.llama_cpp.prefix_cache import PrefixCache
from serve_app.engines.llama_cpp.prefix_store import PrefixStore
from serve_app.engines.llama_cpp.radix import Tokens
from serve_app.errors import ModelFileError

logger = logging.getLogger(__name__)

_MAX_SHARE: Final = 0.75
"""Share of `n_ctx` that a pinned prompt may have. The KV memory is larger by what is pinned, so any
request has its whole `n_ctx` beside it; with less room for questions something else is wrong."""
_PAYING_WORK: Final = 1 << 36
"""Tokens times bytes of weights from which a file is worth while by default. Two cores compute some
70e9 of them per second (95 tokens/s of a 0.75 GB model), so this is about a second; a smaller
prompt is computed as fast as its file is read and checked."""


class Snapshot(NamedTuple):
    """KV memory that is to be written."""

    store: PrefixStore
    tokens: Tokens
    data: memoryview


class WarmStart:
    """Pins the system prompt in the contexts of one model.

    Args:
        config: What is loaded.
        prompt: Tokens that every conversation of this assistant begins with; may be empty.
        model_bytes: Size of the weights.
        directory: Where KV memory is kept between loads.
    """

    def __init__(
        self, config: ModelConfig, prompt: tuple[int, ...], *, model_bytes: int, directory: Path
    ) -> None:
        options = config.llama_cpp
        self._config = config
        self._directory = directory
        self._tokens = np.array(prompt, dtype=np.int32)
        if not (options.prefix_cache and options.pin_system_prompt):
            self._tokens = self._tokens[:0]
        elif len(prompt) > _MAX_SHARE * config.n_ctx:
            logger.warning(
                "the system prompt of %s tokens is not pinned: allowed are %s of n_ctx %s",
                len(prompt),
                int(_MAX_SHARE * config.n_ctx),
                config.n_ctx,
            )
            self._tokens = self._tokens[:0]
        self._uses_disk = options.disk_prefix_cache
        if self._uses_disk is None:
            self._uses_disk = len(self._tokens) * model_bytes >= _PAYING_WORK
        self._snapshots: list[Snapshot] = []
        self._writer = threading.Thread(target=self._write, name="carril-prefixes", daemon=True)
        self._n_restored = 0
        self._seconds = 0.0

    @property
    def n_pinned(self) -> int:
        """Tokens that each context needs beside those of its requests."""
        return len(self._tokens)

    @property
    def details(self) -> dict[str, str]:
        """What was pinned, for the engine's description."""
        if not self.n_pinned:
            return {"pinned_tokens": "0"}
        return {
            "pinned_tokens": str(self.n_pinned),
            "pinned_from_disk": str(self._n_restored),
            "pinned_s": f"{self._seconds:.3f}",
            "disk_prefix_cache": str(self._uses_disk).lower(),
        }

    def pin(self, context: Context, pool: KvPool, cache: PrefixCache, *, adapter: str = "") -> None:
        """Fill a context's pinned sequence. Only before its first request.

        Args:
            context: The context.
            pool: Its cells.
            cache: Its prefixes.
            adapter: What identifies the adapter that the context computes with.

        Raises:
            ModelFileError: If the model cannot compute its own system prompt.
        """
        if not self.n_pinned:
            return
        started = time.monotonic()
        seq_id = pool.acquire()
        store = self._store(adapter) if self._uses_disk else None
        restored = store is not None and self._restore(store, context, seq_id)
        if not restored:
            self._compute(context, seq_id)
            if store is not None:
                self._snapshots.append(Snapshot(store, self._tokens, read_kv(context, seq_id)))
        pool.grew(seq_id, self.n_pinned)
        cache.pin(seq_id, self._tokens, restored=restored)
        self._n_restored += restored * self.n_pinned
        self._seconds += time.monotonic() - started

    def write(self) -> None:
        """Write what was computed to disk, in a thread of its own."""
        if self._snapshots:
            self._writer.start()

    def close(self) -> None:
        """Wait for the writing to end."""
        if self._writer.ident is not None:
            self._writer.join()

    def _store(self, adapter: str) -> PrefixStore:
        config, options = self._config, self._config.llama_cpp
        identity = (
            config.model.sha256 if config.model else "",
            f"llama-cpp-python {SUPPORTED_VERSION}",
            options.kv_type,
            # the V cache is transposed without it
            "flash attention" if options.flash_attention else "plain attention",
            adapter,
        )
        return PrefixStore(
            self._directory, max_bytes=options.disk_prefix_cache_bytes, identity=identity
        )

    def _restore(self, store: PrefixStore, context: Context, seq_id: int) -> bool:
        data = store.load(self._tokens)
        if data is None:
            return False
        if not write_kv(context, seq_id, data, self.n_pinned):
            store.discard(self._tokens, "llama.cpp refuses it")
            return False
        return True

    def _compute(self, context: Context, seq_id: int) -> None:
        for start in range(0, self.n_pinned, context.n_batch):
            tokens = self._tokens[start : start + context.n_batch].tolist()
            code = context.decode([Rows(seq_id, start, tokens, 0)])
            if code != 0:
                raise ModelFileError(
                    f"the model cannot compute its system prompt: llama_decode returned {code}"
                )

    def _write(self) -> None:
        while self._snapshots:
            snapshot = self._snapshots.pop()
            try:
                snapshot.store.save(snapshot.tokens, snapshot.data)
            except Exception:  # the thread's boundary: a cache never harms what serves
                logger.exception("prefix cache: nothing written")
