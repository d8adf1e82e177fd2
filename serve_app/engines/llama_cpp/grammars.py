"""Compiled grammars of one model, by schema."""

from serve_app.engines.llama_cpp.grammar import Grammar
from serve_app.engines.llama_cpp.model import Model
from serve_app.engines.llama_cpp.vocabulary import Vocabulary
from serve_app.errors import InvalidSchema


class GrammarStore:
    """Hands out grammars.

    Args:
        model: Open model.
        vocabulary: Its tokens.
    """

    def __init__(self, model: Model, vocabulary: Vocabulary) -> None:
        self._model = model
        self._vocabulary = vocabulary

    async def get(self, schema: str) -> Grammar:
        """Return the grammar of a schema.

        Raises:
            InvalidSchema: Always, until the compiler is there.
        """
        raise InvalidSchema(f"schemas are not supported yet ({len(schema)} bytes)")

    def close(self) -> None:
        """Free everything."""
