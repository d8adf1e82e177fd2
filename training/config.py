"""One typed configuration for a whole training: data, tokenizer, network, optimiser."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.data.generator import DataConfig
from training.errors import ConfigError

K_QUANT_BLOCK = 256
"""Row length of llama.cpp's K quants; other lengths silently become other types."""


_CAME_LATER = {
    "tokenizer": ("n_phrases",),
    "optim": (
        "warm_start",
        "reader_rate",
        "n_given_intents",
        "dropout",
        "lost_tokens_percent",
        "message_loss",
    ),
}
"""Options that a configuration's hash leaves out where they have their default."""


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenizerConfig(_Config):
    """Byte-level BPE."""

    vocab_size: Annotated[int, Field(ge=300, multiple_of=8)] = 4096
    """Special tokens included. A multiple of 8, which llama.cpp's repacked kernels need."""
    n_conversations: Annotated[int, Field(gt=0)] = 8_000
    """Conversations of every register that the merges are learnt from."""
    n_phrases: Annotated[int, Field(ge=0)] = 0
    """Single messages that they are learnt from as well: with enough of them, and a large
    vocabulary, nearly every word is a token of its own, and a start can tell it from others."""


class ModelConfig(_Config):
    """Shape of the Llama network."""

    hidden_size: Annotated[int, Field(gt=0, multiple_of=K_QUANT_BLOCK)] = 256
    intermediate_size: Annotated[int, Field(gt=0, multiple_of=K_QUANT_BLOCK)] = 768
    n_layers: Annotated[int, Field(gt=0)] = 4
    n_heads: Annotated[int, Field(gt=0)] = 4
    n_kv_heads: Annotated[int, Field(gt=0)] = 2
    context_length: Annotated[int, Field(gt=0)] = 1024
    """Positions the GGUF declares; training sequences are shorter (`OptimConfig.max_tokens`)."""
    tie_embeddings: bool = True
    """Whether input and output share their token vectors. Untied, the names of intents are free
    to mean something else than the same words in a message: better, for vocab_size x hidden_size
    more weights."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.n_heads or self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of n_heads {self.n_heads}, "
                f"and that one of n_kv_heads {self.n_kv_heads}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.n_heads


class OptimConfig(_Config):
    """AdamW with a warm-up and a cosine, first over intents, then over whole answers as well."""

    n_phrases: Annotated[int, Field(gt=0)] = 20_000
    """Different messages whose intent is learnt."""
    warm_start_epochs: Annotated[int, Field(ge=0)] = 3
    """Passes of the small classifier whose weights the network begins with."""
    warm_start: Literal["bag", "pairs"] = "bag"
    """`bag` of tokens, or also their `pairs` of neighbours: five times the time per pass."""
    reader_rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Rate of what `pairs` has trained, as a share of the others': below 1, what the network
    learns later moves it less. Where only answers are learnt it would be forgotten."""
    n_given_intents: Annotated[int, Field(ge=0)] = 0
    """Conversations beside the dataset's whose answer is of an intent that was drawn: what is
    learnt from them is to go on as the intent says, wherever it came from."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of what each layer adds that is left out at random: for trainings long enough to learn
    their phrases by heart."""
    lost_tokens_percent: Annotated[int, Field(ge=0, lt=100)] = 0
    """Share of the tokens of single messages that are blotted out, others at every sight."""
    message_loss: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of learning to write the customers' single messages, beside naming their intent: it
    makes a network read words that no intent depends on, too."""
    n_steps: Annotated[int, Field(gt=0)]
    n_intent_steps: Annotated[int, Field(ge=0)] = 0
    """Steps at the start that learn to name intents only: five times as many phrases per second."""
    answer_every_steps: Annotated[int, Field(ge=0)] = 0
    """Whole answers are learnt in every so many of them as well; 0: in none."""
    opening_percent: Annotated[int, Field(ge=0, le=100)] = 50
    """Share of steps whose single messages come after an inventory or earlier turns: a whole batch
    after the same, which costs no more than one."""
    batch_size: Annotated[int, Field(gt=0)] = 8
    """Conversations in one step."""
    intent_batch_size: Annotated[int, Field(gt=0)] = 24
    """Phrases in one step whose intent is named, beside the conversations."""
    max_tokens: Annotated[int, Field(gt=0, le=4096)] = 512
    """Longer conversations lose their oldest turns."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-3
    final_rate_ratio: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Learning rate at the last step as a share of the peak."""
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """For matrices; norms have none."""
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    checkpoint_every_steps: Annotated[int, Field(gt=0)] = 200

    @model_validator(mode="after")
    def _answers_are_learnt(self) -> Self:
        if self.n_intent_steps >= self.n_steps:
            raise ValueError(
                f"n_intent_steps {self.n_intent_steps} must be below n_steps {self.n_steps}"
            )
        return self


class PreparedData(_Config):
    """A dataset of `carril retrain prepare`, learnt in place of the generated conversations."""

    path: Path
    """Its folder; what counts is the content."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """In its manifest. Another one is refused."""


class BaseConfig(_Config):
    """Weights to start from: those that another configuration has trained."""

    folder: Path
    """Work folder of that training; where it lies is no part of the configuration's hash."""
    network_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of `hf/model.safetensors` in it; other weights are refused."""
    tokenizer_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of `tokenizer.json` in it, which the training takes over: weights mean nothing without it."""


class TrainConfig(_Config):
    """Everything that decides the weights of a model."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """File name of the model, for example `okla-v1`."""
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    """Semantic version."""
    description: str
    seed: int = 42
    threads: Annotated[int, Field(gt=0)] = 2
    """CPU threads. Part of the configuration: sums in another order give other weights."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the products in forward and backward passes; weights and their updates are float32.
    bfloat16 needs a CPU with AVX512-BF16 or AMX, or a GPU: on others it is slower."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it is trained. Trained twice, the weights are the same on a CPU; not on a GPU."""
    data: DataConfig
    base: BaseConfig | None = None
    """Without it, a training starts from scratch."""
    dataset: PreparedData | None = None
    """With feedback in it. The tokenizer, single phrases and the held-out part stay those of
    `data`."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig

    def sha256(self) -> str:
        """Return the hash of the configuration's canonical JSON; where data lies is not in it."""
        # A configuration without one of these has the hash that it always had.
        apart: dict[str, set[str] | bool] = {
            "dataset": {"path"} if self.dataset else True,
            "base": {"folder"} if self.base else True,
        }
        if self.device == "cpu":
            apart["device"] = True
        for part, names in _CAME_LATER.items():
            section = getattr(self, part)
            usual = {
                n for n in names if getattr(section, n) == type(section).model_fields[n].default
            }
            if usual:
                apart[part] = usual
        return hashlib.sha256(self.model_dump_json(exclude=apart).encode()).hexdigest()


def load_config(path: Path) -> TrainConfig:
    """Read a training configuration.

    Raises:
        ConfigError: If the file is missing, is not YAML, or breaks a rule; the message says which.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise ConfigError(f"Cannot read the training configuration {str(path)!r}: {err}") from err
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as err:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in err.errors())
        raise ConfigError(f"Training configuration {str(path)!r}: {problems}") from err
