"""What the small files of a Hugging Face folder say that tokens and text depend on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import ModelFileError

_MAX_JSON_BYTES = 64 << 20
_BYTES_PER_VALUE = 4
"""Of KV; halves are counted as float32, so that the estimate holds for every `dtype`."""

Json = Any  # JSON that others wrote: looked at with care, key by key


@dataclass(frozen=True, slots=True, kw_only=True)
class HfFolder:
    """A folder as far as carril reads it itself; vLLM reads the weights."""

    path: Path
    n_vocab: int
    """Columns of the logits; there may be fewer tokens."""
    bos: str
    """Names of the special tokens; "" where there is none."""
    eos: str
    eos_ids: frozenset[int]
    """Tokens that end an answer, as far as they are given by number."""
    chat_template: str | None
    kv_token_bytes: int | None
    """KV of one token at most; None if the shape is not told in the usual way."""

    @property
    def name(self) -> str:
        """How the model is called: by its folder, or that of the run which holds an `hf`."""
        resolved = self.path.resolve()
        return resolved.parent.name if resolved.name == "hf" else resolved.name


def read_folder(path: Path) -> HfFolder:
    """Read `config.json`, `tokenizer_config.json` and what stands beside them.

    Raises:
        ModelFileError: If a file is missing, broken, or does not say what is needed.
    """
    config = _json(path / "config.json", needed=True)
    text_config = config.get("text_config") if isinstance(config.get("text_config"), dict) else None
    shape = text_config or config
    described = _json(path / "tokenizer_config.json")
    generation = _json(path / "generation_config.json")
    n_vocab = shape.get("vocab_size")
    if not isinstance(n_vocab, int) or n_vocab < 1:
        raise ModelFileError(f"{path / 'config.json'}: vocab_size is {n_vocab!r}")
    return HfFolder(
        path=path,
        n_vocab=n_vocab,
        bos=_token_name(described.get("bos_token")),
        eos=_token_name(described.get("eos_token")),
        eos_ids=_ids(generation.get("eos_token_id")) | _ids(shape.get("eos_token_id")),
        chat_template=_template(path, described),
        kv_token_bytes=_kv_token_bytes(shape),
    )


def _json(path: Path, *, needed: bool = False) -> dict[str, Json]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ModelFileError(f"{path} is larger than {_MAX_JSON_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if needed:
            raise ModelFileError(f"{path} does not exist") from error
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ModelFileError(f"{path} is no JSON object")
    return document


def _token_name(value: Json) -> str:
    # Older files write an object with `content`.
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def _ids(value: Json) -> frozenset[int]:
    values = value if isinstance(value, list) else [value]
    return frozenset(v for v in values if isinstance(v, int) and not isinstance(v, bool))


def _template(path: Path, described: dict[str, Json]) -> str | None:
    beside = path / "chat_template.jinja"
    try:
        return beside.read_text(encoding="utf-8")
    except FileNotFoundError:
        template = described.get("chat_template")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{beside} cannot be read: {error}") from error
    if isinstance(template, list):  # several templates by name
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _kv_token_bytes(shape: dict[str, Json]) -> int | None:
    layers, heads = shape.get("num_hidden_layers"), shape.get("num_attention_heads")
    kv_heads = shape.get("num_key_value_heads", heads)
    width = shape.get("head_dim")
    if width is None and isinstance(heads, int) and heads > 0:
        hidden = shape.get("hidden_size")
        width = hidden // heads if isinstance(hidden, int) else None
    n_values = 2
    for number in (layers, kv_heads, width):
        if not isinstance(number, int) or number < 1:
            return None
        n_values *= number
    return n_values * _BYTES_PER_VALUE
