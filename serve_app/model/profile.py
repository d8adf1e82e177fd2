"""A profile: what makes a bare model an assistant, kept beside the weights as plain files."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import orjson

from experiments.grounding.profile_options import FILE, Grounding, parse_options
from experiments.intent_prior.bias import OpeningBias, read_bias
from experiments.intent_prior.errors import PriorError
from serve_app.errors import ConfigError

_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The files of a profile directory; each may be absent."""

    system_prompt: str | None = None
    """Put first when a conversation brings no system message of its own."""
    answer_schema: str | None = None
    """JSON text of the schema that answers follow unless the client brings one."""
    chat_template: str | None = None
    """Jinja template used instead of the one in the model file."""
    grounding: Grounding = "off"
    """What answers must keep to; see `profile.yaml`."""
    bias: OpeningBias | None = None
    """What a classifier of messages adds to the first choice of an answer; see `profile.yaml`."""

    @property
    def openings(self) -> tuple[str, ...]:
        """Texts that answers begin with, each of which must be one token; often none."""
        return self.bias.openings if self.bias is not None else ()

    @property
    def sha256(self) -> str:
        """Hash of everything in it; part of every cache key."""
        parts: tuple[str | None, ...] = (
            self.system_prompt,
            self.answer_schema,
            self.chat_template,
        )
        if self.grounding != "off":
            parts += (self.grounding,)
        if self.bias is not None:
            parts += ("intent_prior", self.bias.sha256)
        return hashlib.sha256(orjson.dumps(parts)).hexdigest()


def load_profile(directory: str | None) -> Profile:
    """Read a profile directory; None is the empty profile.

    Raises:
        ConfigError: If the directory does not exist or holds a file that cannot be used.
    """
    if directory is None:
        return Profile()
    root = Path(directory)
    if not root.is_dir():
        raise ConfigError(f"profile {directory!r} is no directory (looked in {Path.cwd()})")
    schema = _read(root / "answer.schema.json")
    if schema is not None:
        try:
            # Key order is kept: answers are generated in the order of the schema's properties.
            schema = orjson.dumps(orjson.loads(schema)).decode()
        except orjson.JSONDecodeError as error:
            raise ConfigError(
                f"{root / 'answer.schema.json'} is not valid JSON: {error}"
            ) from error
    try:
        options = parse_options(_read(root / FILE))
    except ValueError as error:
        raise ConfigError(f"{root / FILE}: {error}") from error
    try:
        bias = read_bias(root, options, orjson.loads(schema) if schema else None)
    except PriorError as error:
        raise ConfigError(f"{root / FILE}: {error}") from error
    prompt = _read(root / "system_prompt.txt")
    return Profile(
        system_prompt=prompt.strip() if prompt else None,
        answer_schema=schema,
        chat_template=_read(root / "chat_template.jinja"),
        grounding=options.grounding,
        bias=bias,
    )


def _read(path: Path) -> str | None:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(f"{path} is larger than {_MAX_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
