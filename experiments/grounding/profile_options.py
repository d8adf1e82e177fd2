"""`profile.yaml`: what a profile says besides prompt, schema and template."""

from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

FILE = "profile.yaml"
"""Its name in a profile's folder. Without it, everything is as by default."""

Grounding = Literal["off", "inventory"]


class ProfileOptions(BaseModel):
    """The contents of `profile.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grounding: Grounding = "off"
    """`inventory`: where a system message brings an inventory block, answers say names, years,
    prices and distances of its rows only, those of one vehicle together. Off, they are the
    model's own, as everywhere where there is no block."""


def parse_options(text: str | None) -> ProfileOptions:
    """Read the text of a `profile.yaml`; None and an empty one are the defaults.

    Raises:
        ValueError: Saying what is wrong, and what is allowed.
    """
    try:
        document = yaml.safe_load(text) if text else None
    except yaml.YAMLError as err:
        raise ValueError(f"is no YAML: {err}") from err
    if document is None:
        return ProfileOptions()
    try:
        return ProfileOptions.model_validate(document)
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or FILE
        raise ValueError(
            f"{place}: {first['msg']}, not {first['input']!r}; known: "
            + ", ".join(ProfileOptions.model_fields)
        ) from err
