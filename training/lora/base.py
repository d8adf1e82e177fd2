"""A local base model: what it is, whether it can be trained and exported, its hash.

All but the hash is decided from small files, before torch is loaded or a weight is read.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import K_QUANT_BLOCK
from training.contract import chat_template as profile_template
from training.errors import ConfigError, ExportError
from training.export.vocabulary import GgufVocabulary, hf_vocabulary
from training.lora.config import TemplateSource
from training.manifest import file_sha256
from training.tokenizer import BOS, EOT, HEADER_END, HEADER_START

ARCHITECTURE = "LlamaForCausalLM"
_SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)
_ROPE_TYPES = ("default", "linear", "llama3")

Json = Any  # JSON of a file that others wrote: looked at with care, key by key


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base model that was found fit."""

    folder: Path
    name: str
    weights: tuple[Path, ...]
    """Its safetensors, in order."""
    vocabulary: GgufVocabulary
    bos: str | None
    eos: str
    """Ends an answer."""
    template: str
    """Jinja source of the chat template that is learnt."""
    n_parameters: int
    """Estimated from the shape."""
    dtype: str | None
    """In what the weights are stored, as `config.json` says."""

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file."""
        return self.folder / "tokenizer.json"


def open_base(folder: Path, *, template: TemplateSource, q4_k_m: bool) -> Base:
    """Look at a base and return what a training needs to know.

    Args:
        folder: Folder as Hugging Face lays it out.
        template: Whose chat template to learn.
        q4_k_m: Whether the result is to be quantised, which not every width allows.

    Raises:
        ConfigError: If something is missing, the architecture is another one, or it could not be
            exported afterwards; the message names what was found and what would do.
    """
    if not folder.is_dir():
        raise ConfigError(f"The base {str(folder)!r} is no folder; give a local path, not a name")
    config = _json(folder / "config.json")
    _check_architecture(config, folder)
    _check_shape(config, folder)
    if q4_k_m:
        _check_widths(config, folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ConfigError(
            f"The base {str(folder)!r} has no *.safetensors; pickled weights run code"
        )
    described = folder / "tokenizer_config.json"
    # The profile's template brings its own tokens: our own networks have no such file.
    settings = _json(described) if described.exists() or template is TemplateSource.BASE else {}
    bos, eos = _token(settings, "bos_token"), _token(settings, "eos_token")
    source = _template(folder, settings, template)
    if template is TemplateSource.PROFILE:
        bos, eos = BOS, EOT
    if eos is None:
        raise ConfigError(f"The tokenizer of {str(folder)!r} names no eos_token")
    tokenizer = folder / "tokenizer.json"
    try:
        vocabulary = hf_vocabulary(
            tokenizer, n_vocab=config["vocab_size"], bos=bos, eos=eos, template=source
        )
    except ExportError as err:
        raise ConfigError(f"The base {str(folder)!r} cannot be exported: {err}") from err
    if template is TemplateSource.PROFILE:
        _check_profile_tokens(vocabulary, folder)
    return Base(
        folder=folder,
        name=folder.resolve().name,
        weights=tuple(weights),
        vocabulary=vocabulary,
        bos=bos,
        eos=eos,
        template=source,
        n_parameters=count_parameters(config),
        dtype=config.get("dtype") or config.get("torch_dtype"),
    )


def base_sha256(base: Base) -> str:
    """Return the hash over configuration, tokenizer and weights, which are read for it."""
    paths = [base.folder / "config.json", base.tokenizer_path, *base.weights]
    lines = [f"{path.name} {file_sha256(path)}" for path in paths]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def count_parameters(config: Json) -> int:
    """Return the number of weights that a Llama of this shape has."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    kv_heads = config.get("num_key_value_heads") or heads
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    layer = attention + 3 * hidden * config["intermediate_size"] + 2 * hidden
    embeddings = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return int(embeddings + layers * layer + hidden)


def _check_architecture(config: Json, folder: Path) -> None:
    found = config.get("architectures") or [config.get("model_type") or "unknown"]
    if list(found) != [ARCHITECTURE]:
        raise ConfigError(
            f"The base {str(folder)!r} has the architecture {', '.join(map(str, found))}; "
            f"LoRA training takes the Llama family: {ARCHITECTURE}"
        )
    if method := (config.get("quantization_config") or {}).get("quant_method"):
        raise ConfigError(
            f"The base {str(folder)!r} is quantised ({method}); give its full weights"
        )
    for bias in ("attention_bias", "mlp_bias"):
        if config.get(bias):
            raise ConfigError(f"The base {str(folder)!r} has {bias}, which is not exported")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in _ROPE_TYPES:
        raise ConfigError(
            f"The base {str(folder)!r} has rope_type {kind!r}; exported are {_ROPE_TYPES}"
        )


def _check_shape(config: Json, folder: Path) -> None:
    for field in _SHAPE:
        found = config.get(field)
        if not isinstance(found, int) or found < 1:
            raise ConfigError(
                f"The base {str(folder)!r} has {field} {found!r} in config.json; needed is a "
                "whole number from 1 on"
            )


def _check_widths(config: Json, folder: Path) -> None:
    for field in ("hidden_size", "intermediate_size"):
        if config[field] % K_QUANT_BLOCK:
            raise ConfigError(
                f"The base {str(folder)!r} has {field} {config[field]}, no multiple of "
                f"{K_QUANT_BLOCK}: llama.cpp would not use Q4_K_M for such rows. "
                "Set `q4_k_m: false` to ship the F16 file"
            )


def _check_profile_tokens(vocabulary: GgufVocabulary, folder: Path) -> None:
    missing = [t for t in (BOS, HEADER_START, HEADER_END, EOT) if t not in vocabulary.tokens]
    if missing:
        raise ConfigError(
            f"The profile's chat template needs tokens that the base {str(folder)!r} lacks: "
            f"{missing}; use `chat_template: base`"
        )


def _template(folder: Path, settings: Json, source: TemplateSource) -> str:
    if source is TemplateSource.PROFILE:
        return profile_template()
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8") if path.exists() else settings.get("chat_template")
    if not isinstance(template, str):
        raise ConfigError(
            f"The base {str(folder)!r} has no single chat template; use `chat_template: profile`"
        )
    return template


def _token(settings: Json, key: str) -> str | None:
    value = settings.get(key)
    text: str | None = value.get("content") if isinstance(value, dict) else value
    return text


def _json(path: Path) -> Json:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ConfigError(f"Cannot read {str(path)!r} of the base: {err}") from err
    if not isinstance(document, dict):
        raise ConfigError(f"{str(path)!r} of the base is no JSON object")
    return document
