"""Who is told, and which hosts may be called. Addresses and secrets come from the environment."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ChannelKind = Literal["slack", "teams", "webhook"]
AlertLevel = Literal["warning", "critical"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Channel(_Model):
    """One place that is told."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    kind: ChannelKind
    url_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
    """Environment variable with the address: a webhook's address is a password."""
    secret_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    """Environment variable with the key of the signature; only for `webhook`, which needs it."""
    min_level: AlertLevel = "warning"

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if (self.kind == "webhook") != (self.secret_env is not None):
            raise ValueError(
                f"channel {self.name!r} of kind {self.kind!r}: secret_env is for kind 'webhook', "
                "which must have one"
            )
        return self


class AlertConfig(_Model):
    """Channels and what they may reach."""

    channels: tuple[Channel, ...] = ()
    allowed_hosts: frozenset[str] = frozenset({"hooks.slack.com"})
    """Host, or host:port, exactly; `*.example.com` for all below. Nothing else is ever called."""
    allow_private: bool = False
    """Whether a host may be in a private or loopback network, and plain HTTP there."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    attempts: Annotated[int, Field(ge=1, le=10)] = 4
    backoff_s: Annotated[float, Field(ge=0, le=60)] = 1.0
    """Before the second attempt; doubles, with jitter. `Retry-After` is obeyed up to 60 s."""
    link: str | None = None
    """Address of a board or runbook, put into every alert."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [channel.name for channel in self.channels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"channels named twice: {twice}")
        return self
