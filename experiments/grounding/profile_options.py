"""`profile.yaml`: what a profile says besides prompt, schema and template."""

import hashlib
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FILE = "profile.yaml"
"""Its name in a profile's folder. Without it, everything is as by default."""

Grounding = Literal["off", "inventory", "always"]


class ProfileOptions(BaseModel):
    """The contents of `profile.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grounding: Grounding = "off"
    """`inventory`: where a system message brings an inventory block, answers say names, years,
    prices and distances of its rows only, those of one vehicle together; where there is no block,
    they are the model's own. `always`: without a block they are held to an inventory without
    rows, so that no figure of a vehicle is said that no row and no customer has named. `off`: they
    are the model's own everywhere."""
    intent_prior: Annotated[str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")] | None = None
    """File beside this one that `carril eval prior` wrote: a classifier whose log-probabilities are
    added to the logits of the first token, where that names the answer's first property. None adds
    nothing."""
    intent_prior_weight: Annotated[float, Field(gt=0, le=10)] = 1.0
    """What they are multiplied with; 1 believes classifier and network alike."""

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        if self.intent_prior is None and "intent_prior_weight" in self.model_fields_set:
            raise ValueError("intent_prior_weight is given, but no intent_prior")
        return self


def prior_sha256(content: bytes, weight: float) -> str:
    """Return the hash of an intent prior as it is used: of its file, and of how much it counts.

    Args:
        content: Of the file that `intent_prior` names.
        weight: `intent_prior_weight`.
    """
    return hashlib.sha256(content + repr(weight).encode()).hexdigest()


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
