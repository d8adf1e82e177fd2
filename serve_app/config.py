"""The typed configuration of the gateway and of model applications.

Both are the `user_config` of a Serve application: what can change while serving. Unknown keys and
impossible values are errors at deploy time, never repaired at request time.
"""

import hashlib
import re
from collections.abc import Hashable
from decimal import Decimal
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import orjson
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from experiments.analysis.declaration import ExperimentDeclaration
from experiments.assignment.compilation import check_candidates, rules_of
from experiments.assignment.declaration import (
    AttributeDeclaration,
    HoldoutDeclaration,
    LayerDeclaration,
)
from experiments.assignment.rules import Rules
from experiments.events.records import FeedbackDirection, FeedbackKind, FeedbackLevel
from experiments.feedback.metrics import BUILT_IN, MetricSpec
from serve_app.config_faults import faults
from serve_app.engines.protocol import Priority
from serve_app.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SERVED_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}(:[A-Za-z0-9._-]{1,32})?")


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is no valid name: use up to 64 letters, digits, '.', '_' and '-'"
        )
    return value


Name = Annotated[str, AfterValidator(_check_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StrictModel(BaseModel):
    """Base of every configuration class: no unknown keys, no later changes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class GenerationDefaults(StrictModel):
    """What applies when the client does not say."""

    temperature: float = Field(default=1.0, ge=0, le=2)
    """OpenAI's default is 1; an assistant that must be repeatable, and cacheable, wants 0."""
    max_tokens: int | None = Field(default=None, ge=1)
    """None is `limits.default_max_tokens`."""


class ServedModelConfig(StrictModel):
    """A name that clients put into `model`."""

    experiment: Name | None = None
    """Experiment that picks the variant. Exactly one of `experiment`, `experiments` and `variant`
    is given."""
    experiments: tuple[Name, ...] | None = Field(default=None, min_length=1)
    """Experiments that share a layer: the one whose part of it a unit is in picks the variant."""
    variant: Name | None = None
    """Variant that always answers."""
    content: Literal["json", "text"] = "json"
    """`json`: the answer as the model wrote it. `text`: only the `response` field of it."""
    defaults: GenerationDefaults = GenerationDefaults()

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if sum(x is not None for x in (self.experiment, self.experiments, self.variant)) != 1:
            raise ValueError("give exactly one of 'experiment', 'experiments' and 'variant'")
        return self

    @property
    def candidates(self) -> tuple[str, ...]:
        """Experiments that may pick the variant."""
        return (self.experiment,) if self.experiment is not None else self.experiments or ()


class VariantConfig(StrictModel):
    """One model application that can answer."""

    app: Name
    """Name of the Serve application, as in this file."""
    adapter: Name | None = None
    """One of the application's `adapters`; None is its base. Variants that name one application
    share the base's weights."""


class ExperimentConfig(StrictModel, ExperimentDeclaration):
    """How units are split between variants, and what decides: the experiment's declaration."""

    control: Name
    """Variant of units that are not enrolled, and the reference of every comparison."""
    allocation: dict[Name, Decimal]
    """Percent of units per variant, in steps of 0.01, adding up to 100."""


class ShadowConfig(StrictModel):
    """Copies of live requests for a variant that answers nobody yet, to see how it would do."""

    variant: Name
    """Gets the copies. What it answers is compared, never shown and never cached."""
    of: Name
    """Variant whose answers it is compared with; only requests that this one answered anew are
    copied."""
    percent: float = Field(gt=0, le=100)
    """Share of those requests that is copied."""
    max_in_flight: int = Field(default=4, ge=1, le=256)
    """Copies in progress per gateway replica; above it they are dropped, and counted."""
    timeout_s: float = Field(default=60, gt=0, le=3600)
    """Longest that a copy may take; then it counts as failed."""


class CacheConfig(StrictModel):
    """The response cache."""

    enabled: bool = True
    ttl_s: float = Field(default=3600, gt=0)
    """Seconds an answer stays."""
    max_entries: int = Field(default=10_000, ge=1)
    """Entries per gateway replica; the least recently used goes first."""
    max_bytes: int = Field(default=64 * 2**20, ge=1)
    """Bytes of answers per gateway replica."""
    redis_url: str | None = None
    """Shared second tier, `redis://host:6379/0`. Without it each gateway replica has its own."""
    redis_timeout_s: float = Field(default=0.05, gt=0)
    """Longest wait for Redis; after it the request goes on as a miss."""

    @field_validator("redis_url")
    @classmethod
    def _redis_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("redis", "rediss", "unix") and parts.port != 0
        except ValueError:  # the port is no number
            usable = False
        if not usable:
            raise ValueError("no address of a Redis; write redis://[:password@]host:port/db")
        return url


class LimitsConfig(StrictModel):
    """Bounds of a request, and of the work in progress."""

    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    body_timeout_s: float = Field(default=15, gt=0)
    """Longest wait for the whole body of a request."""
    max_json_depth: int = Field(default=32, ge=4)
    max_messages: int = Field(default=256, ge=1)
    max_tokens: int = Field(default=4096, ge=1)
    """Largest `max_tokens` a client may ask for."""
    default_max_tokens: int = Field(default=512, ge=1)
    """Used when the client names none."""
    max_stop: int = Field(default=4, ge=0)
    max_top_logprobs: int = Field(default=20, ge=0)
    deadline_s: float = Field(default=300, gt=0)
    """Longest a request may take, from the gateway's first byte to the last."""
    first_token_s: float = Field(default=120, gt=0)
    """Longest wait for the first token, the queue included."""
    max_in_flight: int = Field(default=256, ge=1)
    """Requests a gateway replica works on at once; above it 503 with `Retry-After`."""
    max_in_flight_per_tenant: int = Field(default=128, ge=1)
    """The same for one API key; above it 429 with `Retry-After`."""


class RetryConfig(StrictModel):
    """Repeating a request whose replica died before its first token."""

    max_retries: int = Field(default=1, ge=0, le=3)
    budget_rate: float = Field(default=0.2, ge=0, le=1)
    """Retries may be at most this share of live requests ..."""
    budget_min: int = Field(default=10, ge=0)
    """... plus this many."""


class ApiKeyConfig(StrictModel):
    """An API key; only its hash is stored."""

    name: Name
    sha256: Sha256
    """Hash of the key, `printf %s KEY | sha256sum`."""
    tenant: Name = "default"
    """Cache entries and request ids are never shared between tenants."""
    priority: Priority = "interactive"
    """Class of its requests; the header `x-carril-priority` may ask for a lesser one. A key of
    class `batch` cannot take a slot from users, whatever it sends."""


class AuthConfig(StrictModel):
    """Who may call. With no keys, only clients on this machine may."""

    keys: tuple[ApiKeyConfig, ...] = ()
    allow_anonymous: bool = False
    """Serve anyone who reaches the port, without keys. For networks that are closed by other means;
    it has to be said, it never happens by forgetting the keys."""

    @model_validator(mode="after")
    def _keys_or_anyone(self) -> Self:
        if self.keys and self.allow_anonymous:
            raise ValueError("allow_anonymous makes the keys pointless; give one of the two")
        return self

    @field_validator("keys")
    @classmethod
    def _distinct(cls, keys: tuple[ApiKeyConfig, ...]) -> tuple[ApiKeyConfig, ...]:
        if len({key.sha256 for key in keys}) != len(keys):
            raise ValueError("two API keys have the same hash")
        return keys


class EventsConfig(StrictModel):
    """The event log."""

    durability: Literal["strict", "spool", "best_effort"] = "spool"
    """What happens to a request whose exposure cannot be stored: `strict` refuses it with 503,
    `spool` appends it to a synced file that is read back later, `best_effort` counts the loss."""
    commit_timeout_s: float = Field(default=2.0, gt=0)
    """Longest wait for the event writer."""
    ship_to: str | None = None
    """Central PostgreSQL to which every node ships its events in the background,
    `postgresql://user@host:5432/database`. Leave the password to PGPASSFILE."""

    @field_validator("ship_to")
    @classmethod
    def _database_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("postgresql", "postgres") and parts.port != 0
            # An @ of a password: it would be taken for the end of it, and the rest for a host.
            usable = usable and parts.netloc.count("@") <= 1
        except ValueError:  # the port is no number
            usable = False
        if not usable or not parts.path.strip("/"):
            raise ValueError(
                "no address of a PostgreSQL; write postgresql://user@host:5432/name (an @ in a "
                "password is %40)"
            )
        return url


class FeedbackMetricConfig(StrictModel):
    """A metric that clients may give feedback on."""

    type: FeedbackKind
    level: FeedbackLevel = "inference"
    """What a vote is about: one answer, or a whole session."""
    direction: FeedbackDirection = "none"
    """Which way is good; `none` for what is only read, such as comments."""
    min: float | None = None
    max: float | None = None
    """Range of a number, ends included."""
    categories: tuple[Name, ...] = ()
    """The closed set of a category metric."""

    @model_validator(mode="after")
    def _fits_the_type(self) -> Self:
        numeric = self.type in ("float", "integer")
        if not numeric and (self.min is not None or self.max is not None):
            raise ValueError(f"min and max are for float and integer, not for {self.type!r}")
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise ValueError(f"min {self.min:g} is not below max {self.max:g}")
        if (self.type == "category") != bool(self.categories):
            raise ValueError("categories belong to metrics of type 'category', which need them")
        if len(set(self.categories)) != len(self.categories):
            raise ValueError("categories names one twice")
        if self.direction != "none" and self.type in ("category", "comment"):
            raise ValueError(f"a {self.type} has no direction; it is no number")
        return self

    def to_spec(self, name: str) -> MetricSpec:
        """Return what values are checked against."""
        return MetricSpec(
            name=name,
            kind=self.type,
            level=self.level,
            direction=self.direction,
            minimum=self.min,
            maximum=self.max,
            categories=self.categories,
        )


class FeedbackConfig(StrictModel):
    """What `POST /v1/feedback` accepts."""

    metrics: dict[Name, FeedbackMetricConfig] = {}
    """Metrics beside the built-in `thumbs`, `rating`, `category` and `correction`."""
    max_comment_chars: int = Field(default=2000, ge=1, le=100_000)
    """Longest comment or correction."""
    max_age_days: float = Field(default=90, gt=0)
    """Answers older than this take no feedback any more."""

    @field_validator("metrics")
    @classmethod
    def _new_names(
        cls, metrics: dict[str, FeedbackMetricConfig]
    ) -> dict[str, FeedbackMetricConfig]:
        taken = sorted(metrics.keys() & BUILT_IN.keys())
        if taken:
            raise ValueError(f"{taken} are built in and cannot be declared again")
        return metrics

    @cached_property
    def specs(self) -> dict[str, MetricSpec]:
        """All declared metrics by name, the built-in ones first."""
        own = {name: metric.to_spec(name) for name, metric in self.metrics.items()}
        return {**BUILT_IN, **own}


class CaptureConfig(StrictModel):
    """Keeping what was said, without personal data, to learn from it. Off unless asked for."""

    text: Literal["off", "feedback", "all"] = "off"
    """`feedback` keeps the answers that somebody gave feedback on, `all` every sampled one."""
    sample_percent: float = Field(default=100, ge=0, le=100)
    """Share of sessions that are captured; of requests, where there is no session."""
    unrated_hours: float = Field(default=24, gt=0)
    """With `feedback`: how long an answer waits for feedback before it is deleted."""
    retention_days: float = Field(default=30, gt=0)
    """After this time every text is deleted."""
    max_chars: int = Field(default=20_000, ge=1, le=200_000)
    """Conversations longer than this are not captured."""

    @field_validator("text", mode="before")
    @classmethod
    def _yaml_off(cls, text: object) -> object:
        return "off" if text is False else text  # which is how YAML reads an unquoted off


class TracingConfig(StrictModel):
    """OpenTelemetry traces. Off unless asked for, in the gateway and in each model application."""

    enabled: bool = False
    endpoint: str | None = None
    """Collector that takes OTLP over HTTP, `http://collector:4318`; spans go to `/v1/traces` of it.
    None is what `OTEL_EXPORTER_OTLP_ENDPOINT` says, else `http://localhost:4318`. Headers with
    secrets come from `OTEL_EXPORTER_OTLP_HEADERS` only."""
    sample: float = Field(default=1, ge=0, le=1)
    """Share of the requests without a `traceparent` that is recorded. Of the gateway only: a model
    records what the gateway does."""
    follow_clients: bool = True
    """Go on with the trace that a client's `traceparent` names, and record it if the client does.
    False begins a trace of our own, with a link to the client's: for clients that are not trusted
    with how much is recorded."""
    max_queued: int = Field(default=4096, ge=64)
    """Spans that wait to be sent at most; above it they are dropped, and counted."""

    @field_validator("endpoint")
    @classmethod
    def _collector_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # the port is no number
            usable = False
        if not usable or parts.query or parts.fragment:
            raise ValueError("no address of a collector; write http://host:4318")
        if parts.username is not None:
            raise ValueError(
                "holds a name or password, which would be shown with the configuration; give them "
                "in the environment, as OTEL_EXPORTER_OTLP_HEADERS"
            )
        return url


class GatewayConfig(StrictModel):
    """`user_config` of the application `gateway`."""

    models: dict[str, ServedModelConfig]
    variants: dict[Name, VariantConfig]
    experiments: dict[Name, ExperimentConfig] = {}
    layers: dict[Name, LayerDeclaration] = {}
    """Units shared out between experiments, so that none is in two of them."""
    holdout: HoldoutDeclaration | None = None
    """Units that no experiment touches."""
    attributes: dict[Name, AttributeDeclaration] = {}
    """What experiments may choose their units by."""
    shadow: dict[Name, ShadowConfig] = {}
    """Shadow traffic by the name under which `carril exp shadow` compares it."""
    cache: CacheConfig = CacheConfig()
    limits: LimitsConfig = LimitsConfig()
    retry: RetryConfig = RetryConfig()
    auth: AuthConfig = AuthConfig()
    events: EventsConfig = EventsConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    capture: CaptureConfig = CaptureConfig()
    tracing: TracingConfig = TracingConfig()
    direct_streams: bool = True
    """Take streamed answers from model replicas over a socket; false takes them through Serve."""

    @model_validator(mode="after")
    def _references(self) -> Self:
        if not self.models:
            raise ValueError("models is empty: name at least one served model")
        known = sorted(self.variants)
        for name, model in self.models.items():
            if not _SERVED_MODEL.fullmatch(name):
                raise ValueError(f"models: {name!r} is no valid name for a served model")
            key = "experiment" if model.experiments is None else "experiments"
            for experiment_name in model.candidates:
                if experiment_name not in self.experiments:
                    raise ValueError(
                        f"models.{name}.{key}: unknown experiment {experiment_name!r}; "
                        f"configured: {sorted(self.experiments)}"
                    )
            if model.variant is not None and model.variant not in self.variants:
                raise ValueError(
                    f"models.{name}.variant: unknown variant {model.variant!r}; configured: {known}"
                )
        for name, experiment in self.experiments.items():
            for variant in experiment.allocation:
                if variant not in self.variants:
                    raise ValueError(
                        f"experiments.{name}.allocation: unknown variant {variant!r}; "
                        f"configured: {known}"
                    )
            unknown = sorted(experiment.feedback_metrics() - self.feedback.specs.keys())
            if unknown:
                raise ValueError(
                    f"experiments.{name}: unknown feedback metrics {unknown}; declared: "
                    f"{sorted(self.feedback.specs)}"
                )
        return self

    @model_validator(mode="after")
    def _assignment(self) -> Self:
        for name, model in self.models.items():
            check_candidates(f"models.{name}.experiments", model.candidates, self.rules)
        return self

    @model_validator(mode="after")
    def _shadows(self) -> Self:
        for name, shadow in self.shadow.items():
            where = f"shadow.{name}"
            if name in self.experiments:
                raise ValueError(
                    f"{where}: there is an experiment of that name, and the event log would mix "
                    "them; give the shadow another name"
                )
            for field, variant in (("variant", shadow.variant), ("of", shadow.of)):
                if variant not in self.variants:
                    raise ValueError(
                        f"{where}.{field}: unknown variant {variant!r}; configured: "
                        f"{sorted(self.variants)}"
                    )
            if shadow.variant == shadow.of:
                raise ValueError(
                    f"{where}.of: {shadow.of!r} would be compared with itself; name the variant "
                    "whose answers users see"
                )
            user = self._who_uses(shadow.variant)
            if user is not None:
                raise ValueError(
                    f"{where}.variant: {shadow.variant!r} answers users ({user}), who would wait "
                    "behind copies; give it no share of the traffic, or remove the shadow"
                )
        return self

    def _who_uses(self, variant: str) -> str | None:
        """Return which part of the configuration sends users to a variant; None if none does.

        Another variant of the same application is the same model replicas.
        """
        app = self.variants[variant].app
        same = [name for name, other in self.variants.items() if other.app == app]
        for name, model in self.models.items():
            if model.variant in same:
                return f"models.{name}.variant"
        for name, experiment in self.experiments.items():
            for one in same:
                share = experiment.allocation.get(one, Decimal(0))
                if share > 0:
                    return f"experiments.{name}.allocation: {share.normalize():f} %"
            if experiment.control in same:
                return f"experiments.{name}.control"
        return None

    @cached_property
    def rules(self) -> dict[str, Rules]:
        """Who takes part in each experiment and what they get."""
        return rules_of(
            self.experiments,
            layers=self.layers,
            attributes=self.attributes,
            holdout=self.holdout,
        )

    @cached_property
    def config_hash(self) -> str:
        """Twelve hex digits that name this configuration; sent as `x-carril-config`."""
        return content_hash(self)[:12]


class ModelFileConfig(StrictModel):
    """A model file and what it must contain."""

    path: str
    """GGUF file, for vllm a Hugging Face folder; absolute or relative to the directory that carril
    was started in."""
    sha256: Sha256
    """It is opened only after its content has this hash. For a folder that is the hash of its list
    of files, as `carril models hash FOLDER` prints it."""

    @field_validator("path")
    @classmethod
    def _no_nul(cls, path: str) -> str:
        if "\x00" in path:
            raise ValueError(f"{path!r} has a NUL character")
        return path


class AdapterConfig(ModelFileConfig):
    """A LoRA adapter in GGUF, and what the file must contain."""

    scale: float = Field(default=1.0, gt=0, le=10)
    """Factor of its effect; 1 is what it was trained for."""


class EchoOptions(StrictModel):
    """Behaviour of the echo engine, for tests and for trying out a deployment."""

    prefill_s: float = Field(default=0.0, ge=0)
    """Seconds before the first token."""
    token_s: float = Field(default=0.0, ge=0)
    """Seconds before each further token."""
    n_tokens: int | None = Field(default=None, ge=0)
    """Length of an answer in tokens; None echoes the last user message word by word."""
    tag: str = ""
    """First word of each answer, to tell variants apart."""
    fail_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of requests that end with `EngineFailed`, chosen by the hash of the request id."""
    fail_after_tokens: int = Field(default=0, ge=0)
    """Tokens that a failing request sends first."""
    obey_prompt: bool = False
    """Let the words `!fail`, `!hang` and `!crash` in the last message cause just that."""


class LlamaCppOptions(StrictModel):
    """Options of the llama.cpp engine that do not change answers beyond rounding."""

    n_threads: int | None = Field(default=None, ge=1)
    """None is one per CPU that this process may use, but at most one per 32 MiB of weights: threads
    that wait for each other cost a small model more than they bring."""
    n_batch: int = Field(default=512, ge=32, le=8192)
    """Rows per decode call at most."""
    kv_type: Literal["f16", "q8_0"] = "f16"
    flash_attention: bool = True
    prefix_cache: bool = True
    """Reuse the KV of a prompt's start, the system prompt above all."""
    pin_system_prompt: bool = True
    """Compute the profile's system prompt while loading and keep it for good, as nearly every
    request begins with it. The KV memory is made larger by it; it is not pinned if it has more than
    three quarters of `n_ctx`, nor without `prefix_cache`."""
    disk_prefix_cache: bool | None = None
    """Keep the KV of the pinned system prompt under CARRIL_HOME/cache/prefix, for the next load of
    the same model. Requests are never written. None: if computing it takes about a second or more
    on two cores, tokens times bytes of weights of 2^36 (95 tokens of a 0.75 GB model)."""
    disk_prefix_cache_bytes: int = Field(default=1 << 30, gt=0)
    """Bound on all files there together; those not used for longest are deleted."""
    packing: bool = True
    """Choose the rows of each step by what such steps were measured to cost."""
    jump_forward: bool = True
    """Compute text that the JSON schema forces in one batch instead of token by token."""
    prompt_lookup: bool = True
    """Guess next tokens from earlier text where a guess costs less than it is likely to save."""
    answer_memory: bool = True
    """Guess them from earlier answers, too: those of the same model, schema and tenant."""
    answer_memory_tokens: int = Field(default=16_384, gt=0)
    """Tokens of answers that are kept for it; what answers have in common counts once. About 10 MB
    of memory where full."""
    preemption: bool = True
    """Let a request take the slot of one of a lesser class, which goes on afterwards."""

    @model_validator(mode="after")
    def _something_to_keep(self) -> Self:
        if self.disk_prefix_cache and not (self.prefix_cache and self.pin_system_prompt):
            raise ValueError(
                "disk_prefix_cache keeps the pinned system prompt: it needs prefix_cache: true and "
                "pin_system_prompt: true"
            )
        return self


class IdleConfig(StrictModel):
    """Freeing the memory of a model that nobody asks."""

    unload_after_s: float | None = Field(default=None, gt=0)
    """Seconds without a request after which the weights are freed; the process stays. None never
    unloads."""
    wake_timeout_s: float = Field(default=30, gt=0)
    """Longest that a request waits for an unloaded model to come back; after it 503 with
    `Retry-After`, while loading goes on."""


class ScalingConfig(StrictModel):
    """When replicas are added and removed.

    Of use only where the deployment's `autoscaling_config` names the policy
    `serve_app.model.scaling_policy:scale`; bounds and delays stand there.
    """

    target_wait_s: float = Field(default=5, gt=0)
    """Replicas are added when a new request would wait longer than this for a slot ..."""
    kv_high: float = Field(default=0.9, gt=0, le=1)
    """... or when running requests fill more than this share of the KV memory."""
    low_rate: float = Field(default=0.6, gt=0, lt=1)
    """Replicas are removed while those that stay would have at most this share of their slots, and
    of their KV memory, in use."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.low_rate >= self.kv_high:
            raise ValueError(
                f"low_rate {self.low_rate:g} is not below kv_high {self.kv_high:g}: replicas would "
                "come and go"
            )
        return self


class VllmOptions(StrictModel):
    """Options of the vLLM engine; `n_ctx` and `n_slots` are its lengths and its batch size."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """In what it computes; `auto` is the folder's own type, and a half for float32."""
    quantization: Literal["fp8", "awq", "gptq", "compressed-tensors", "bitsandbytes"] | None = None
    """None is what the folder's `config.json` says."""
    tensor_parallel_size: int = Field(default=1, ge=1, le=64)
    """GPUs that share one replica's weights; give its actor as many."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of each GPU's memory for weights and KV."""
    kv_cache_mib: int | None = Field(default=None, ge=1)
    """Memory for KV. None is what the GPUs have left; without a GPU, what `n_slots` + 1 requests of
    `n_ctx` tokens need, 2 GiB at most."""
    enforce_eager: bool = False
    """Do not compile the network: starts in seconds instead of minutes, answers more slowly."""
    prefix_cache: bool = True
    """Reuse the KV of a prompt's start, the system prompt above all."""


class ModelConfig(StrictModel):
    """`user_config` of a model application."""

    engine: Literal["echo", "llama_cpp", "vllm"]
    model: ModelFileConfig | None = None
    """None only for `echo`."""
    adapters: dict[Name, AdapterConfig] = {}
    """LoRA adapters over `model`, by the name that a gateway's variant uses. Weights are loaded
    once; each adapter has `n_slots`, KV memory and prefixes of its own. For llama_cpp only."""
    serve_base: bool = True
    """Whether the base answers too, for variants without an adapter. False saves its KV memory."""
    n_ctx: int = Field(default=2048, ge=64)
    """Tokens of context a single request may use."""
    n_slots: int = Field(default=8, ge=1, le=64)
    """Requests decoded together; more wait in the queue."""
    max_queue: int = Field(default=64, ge=0)
    """Requests that wait for a slot; above it 503 with `Retry-After`."""
    profile: str | None = None
    """Directory with the assistant's `system_prompt.txt`, `answer.schema.json`,
    `chat_template.jinja` and `profile.yaml` (`grounding`, `intent_prior`), each optional. What it
    holds is part of the variant."""
    stream_interval_ms: int = Field(default=25, ge=0, le=1000)
    """Streamed text that comes sooner than this after the last piece is sent together with what
    follows. The first and the last piece never wait. 0 sends every token by itself."""
    heartbeat_timeout_s: float = Field(default=60, gt=0)
    """Seconds without progress of the engine after which the replica counts as hung."""
    drain_timeout_s: float = Field(default=300, gt=0)
    """Seconds that requests on a replaced model may still take."""
    warmup: bool = True
    """Answer one request before taking traffic."""
    load_timeout_s: float = Field(default=600, gt=0)
    """Longest that loading and warming up may take; after it the model is reported as failed. One
    that comes later still serves."""
    idle: IdleConfig = IdleConfig()
    scaling: ScalingConfig = ScalingConfig()
    echo: EchoOptions = EchoOptions()
    llama_cpp: LlamaCppOptions = LlamaCppOptions()
    tracing: TracingConfig = TracingConfig()
    vllm: VllmOptions = VllmOptions()

    @model_validator(mode="after")
    def _engine_needs(self) -> Self:
        if self.engine != "echo" and self.model is None:
            raise ValueError(f"engine {self.engine!r} needs 'model: {{path, sha256}}'")
        if self.adapters and self.engine != "llama_cpp":
            raise ValueError(f"adapters are for llama_cpp, not for {self.engine!r}")
        if not self.serve_base and not self.adapters:
            raise ValueError("serve_base is false and there are no adapters: nothing would answer")
        if self.model is not None:
            suffix = PurePosixPath(self.model.path).suffix
            if self.engine == "vllm" and suffix == ".gguf":
                raise ValueError(
                    f"model.path: {self.model.path!r} is a .gguf file; vllm takes a Hugging Face "
                    "folder, which `carril models unpack` makes of a file of ours"
                )
            if self.engine != "vllm" and suffix not in {".gguf", ""}:
                raise ValueError(f"model.path: {self.model.path!r} is no .gguf file")
        return self

    @property
    def n_lanes(self) -> int:
        """Contexts over the weights: one for each adapter, and one for the base if it answers."""
        return len(self.adapters) + self.serve_base

    @property
    def total_slots(self) -> int:
        """Requests decoded together, over all adapters."""
        return self.n_slots * self.n_lanes

    @cached_property
    def load_hash(self) -> str:
        """Hash of what a loaded model depends on: where two are equal, nothing is loaded anew."""
        operation = {name: type(self).model_fields[name].default for name in _OPERATION}
        return content_hash(self.model_copy(update=operation))


def parse_gateway_config(raw: object) -> GatewayConfig:
    """Validate the gateway's `user_config`.

    Raises:
        ConfigError: With one line per fault.
    """
    return _parse(GatewayConfig, raw, "gateway user_config")


def parse_model_config(raw: object, *, app: str = "model") -> ModelConfig:
    """Validate a model application's `user_config`.

    Raises:
        ConfigError: With one line per fault.
    """
    return _parse(ModelConfig, raw, f"{app} user_config")


def content_hash(model: StrictModel) -> str:
    """Return the SHA-256 of a configuration, whatever its key order and number format."""
    dumped = model.model_dump(mode="json")
    for experiment in dumped.get("experiments", {}).values():
        experiment["allocation"] = {
            variant: f"{Decimal(percent).normalize():f}"
            for variant, percent in experiment["allocation"].items()
        }
    return hashlib.sha256(orjson.dumps(dumped, option=orjson.OPT_SORT_KEYS)).hexdigest()


def load_yaml(text: str) -> object:
    """Parse YAML, refusing duplicate keys, which YAML readers silently merge.

    Raises:
        ConfigError: If the text is no YAML, or a mapping names a key twice.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}") from error


_OPERATION = ("load_timeout_s", "idle", "scaling", "tracing")
"""Fields of a model's configuration that take effect on the model that is loaded already."""
_M = TypeVar("_M", bound=StrictModel)
_YAML_MERGE = "tag:yaml.org,2002:merge"


class _UniqueKeyLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _YAML_MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a text or a number", key_node.start_mark
                )
            if key in seen:
                raise ConfigError(f"key {key!r} appears twice{key_node.start_mark}")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse(model: type[_M], raw: object, where: str) -> _M:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(faults(error, model))) from error
