"""The body of POST /v1/feedback, in its two forms.

One metric at a time: `{metric_name, value, inference_id or episode_id, tags?, dryrun?}`. Or the
short form, which is the built-in metrics by name: `{inference_id, thumbs?, rating?, category?,
correction?, tags?}`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from experiments.feedback.metrics import CATEGORY, CORRECTION, RATING, THUMBS
from serve_app.errors import InvalidField, MissingField
from serve_app.gateway.wire import translate

_MAX_TAGS = 16
_SHORT_FORM = (THUMBS.name, RATING.name, CATEGORY.name, CORRECTION.name)

_NO_NUL = r"^[^\x00]*$"
"""Databases do not take the character 0 in a text."""
_Id = Annotated[str, Field(min_length=1, max_length=512, pattern=_NO_NUL)]
_TagKey = Annotated[str, Field(min_length=1, max_length=64, pattern=_NO_NUL)]
_TagValue = Annotated[str, Field(max_length=256, pattern=_NO_NUL)]


class FeedbackBody(BaseModel):
    """Body of POST /v1/feedback."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    metric_name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    value: Any = None
    inference_id: _Id | None = None
    episode_id: _Id | None = None
    tags: Annotated[dict[_TagKey, _TagValue], Field(max_length=_MAX_TAGS)] | None = None
    dryrun: bool | None = None
    thumbs: Literal["up", "down"] | None = None
    rating: int | None = None
    category: str | None = None
    correction: str | None = None


class Submission(NamedTuple):
    """A body whose form is right; whether the values fit is still open."""

    values: Mapping[str, object]
    """Value per metric."""
    fields: Mapping[str, str]
    """The field of the body that holds each metric's value, for errors."""
    inference_id: str | None
    episode_id: str | None
    tags: Mapping[str, str]
    dryrun: bool


def parse_feedback(raw: dict[str, Any]) -> Submission:
    """Validate the form of a body.

    Raises:
        ClientError: Naming the field at fault.
    """
    try:
        body = FeedbackBody.model_validate(raw)
    except ValidationError as error:
        raise translate(error) from None
    if (body.inference_id is None) == (body.episode_id is None):
        given = "both" if body.inference_id is not None else "neither"
        raise MissingField(
            f"give exactly one of inference_id and episode_id; got {given}", "inference_id"
        )
    values, fields = _values(body)
    return Submission(
        values=values,
        fields=fields,
        inference_id=body.inference_id,
        episode_id=body.episode_id,
        tags=body.tags or {},
        dryrun=bool(body.dryrun),
    )


def _values(body: FeedbackBody) -> tuple[dict[str, object], dict[str, str]]:
    short = {name: value for name in _SHORT_FORM if (value := getattr(body, name)) is not None}
    if body.metric_name is None:
        if "value" in body.model_fields_set:
            raise MissingField("value needs metric_name, the metric that it is of", "metric_name")
        if not short:
            raise MissingField(
                f"give metric_name and value, or at least one of {', '.join(_SHORT_FORM)}",
                "metric_name",
            )
        if THUMBS.name in short:
            short[THUMBS.name] = short[THUMBS.name] == "up"
        return short, {name: name for name in short}
    if short:
        raise InvalidField(
            f"metric_name and {next(iter(short))} are two forms of feedback; send one of them",
            next(iter(short)),
        )
    if body.value is None:
        raise MissingField("metric_name needs a value", "value")
    return {body.metric_name: body.value}, {body.metric_name: "value"}
