"""An assistant's profile: the system prompt, the answer's schema and the intents in it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.evaluation.errors import BadInput
from experiments.grounding.profile_options import FILE, ProfileOptions, parse_options
from experiments.intent_prior.bias import OpeningBias, read_bias

DEFAULT_DIR = Path(__file__).resolve().parents[2] / "models" / "okla" / "profile"


@dataclass(frozen=True)
class Profile:
    """What an answer of the assistant must look like."""

    system_prompt: str
    answer_schema: Mapping[str, Any]  # Any: it is JSON Schema, forwarded as it is
    chat_template: str
    intents: tuple[str, ...]
    options: ProfileOptions = field(default_factory=ProfileOptions)
    bias: OpeningBias | None = None
    """What a classifier of messages adds to the first choice of an answer."""

    @cached_property
    def _validator(self) -> Any:  # Any: jsonschema has no types
        from jsonschema import Draft202012Validator

        return Draft202012Validator(self.answer_schema)

    def parse(self, text: str) -> dict[str, Any] | None:
        """Return the answer in a text, None when it is not exactly one that keeps the schema."""
        try:
            answer = json.loads(text, parse_constant=_refuse)
        except ValueError:
            return None
        if not self._validator.is_valid(answer):
            return None
        checked: dict[str, Any] = answer
        return checked


def read_profile(folder: Path = DEFAULT_DIR) -> Profile:
    """Read a profile folder.

    Raises:
        BadInput: If a file is missing, or the schema has no list of intents.
        PriorError: If the options name an intent prior that cannot be used.
    """
    try:
        prompt = (folder / "system_prompt.txt").read_text(encoding="utf-8").strip()
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8").strip()
        schema = json.loads((folder / "answer.schema.json").read_text(encoding="utf-8"))
        intents = tuple(schema["properties"]["intent"]["enum"])
    except (OSError, ValueError) as err:
        raise BadInput(f"Cannot read the profile {str(folder)!r}: {err}") from err
    except (KeyError, TypeError) as err:
        raise BadInput(
            f"The answer schema in {str(folder)!r} has no properties.intent.enum"
        ) from err
    try:
        own = folder / FILE
        options = parse_options(own.read_text(encoding="utf-8") if own.is_file() else None)
    except (OSError, ValueError) as err:
        raise BadInput(f"Cannot read the profile's {str(own)!r}: {err}") from err
    return Profile(
        system_prompt=prompt,
        answer_schema=schema,
        chat_template=template,
        intents=intents,
        options=options,
        bias=read_bias(folder, options, schema),
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
