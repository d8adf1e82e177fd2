"""A strict subset of JSON Schema, and its translation into grammars. Pure Python, no model."""

from serve_app.engines.schema.gbnf import compile_schema
from serve_app.engines.schema.limits import MAX_SCHEMA_BYTES
from serve_app.engines.schema.lookalikes import lookalikes
from serve_app.engines.schema.subset import parse_schema

__all__ = ["MAX_SCHEMA_BYTES", "compile_schema", "lookalikes", "parse_schema"]
