"""Compiled grammars of one model, by schema: checked once, kept for the next request."""

import hashlib
import threading
from collections import OrderedDict

from serve_app.engines.llama_cpp.forced import TokenIndex
from serve_app.engines.llama_cpp.grammar import Grammar
from serve_app.engines.llama_cpp.grammar_checker import GrammarChecker
from serve_app.engines.llama_cpp.model import Model
from serve_app.engines.llama_cpp.vocabulary import Vocabulary
from serve_app.engines.schema import compile_schema, lookalikes
from serve_app.errors import InvalidSchema

_MAX_ENTRIES = 64


class GrammarStore:
    """Hands out grammars; the least recently used goes first. Refusals are remembered too.

    Args:
        model: Open model.
        vocabulary: Its tokens.
        find_forced: Whether the grammars tell forced text.
    """

    def __init__(self, model: Model, vocabulary: Vocabulary, *, find_forced: bool = True) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._index = TokenIndex(vocabulary) if find_forced else None
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, Grammar | str] = OrderedDict()
        self._checker = GrammarChecker(model.path)

    def known(self, schema: str) -> Grammar | None:
        """Return the grammar of a schema if it is there already.

        Raises:
            InvalidSchema: If it is known to be refused.
        """
        with self._lock:
            entry = self._entries.get(_key(schema))
            if entry is not None:
                self._entries.move_to_end(_key(schema))
        if isinstance(entry, str):
            raise InvalidSchema(entry, "response_format")
        return entry

    def compile(self, schema: str) -> Grammar:
        """Return the grammar of a schema. Blocking.

        Raises:
            InvalidSchema: If the schema is outside the subset, or does not compile.
        """
        known = self.known(schema)
        if known is not None:
            return known
        try:
            gbnf = compile_schema(schema)
            self._checker.check(gbnf)
            grammar = Grammar(
                gbnf,
                self._vocabulary,
                self._model.vocab,
                self._index,
                lookalikes=lookalikes(schema),
            )
        except InvalidSchema as error:
            self._remember(schema, error.message)
            raise
        self._remember(schema, grammar)
        return grammar

    def start(self) -> None:
        """Start the helper process, so that the first schema does not wait for it."""
        self._checker.start()

    def close(self) -> None:
        """End the helper process and forget all grammars."""
        self._checker.close()
        with self._lock:
            self._entries.clear()

    def _remember(self, schema: str, entry: Grammar | str) -> None:
        with self._lock:
            self._entries[_key(schema)] = entry
            while len(self._entries) > _MAX_ENTRIES:
                self._entries.popitem(last=False)


def _key(schema: str) -> bytes:
    return hashlib.sha256(schema.encode("utf-8", "replace")).digest()
