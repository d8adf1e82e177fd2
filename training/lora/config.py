"""One typed configuration for a LoRA training: base, data, adapter, optimiser."""

import hashlib
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from training.errors import ConfigError


class Quant(StrEnum):
    """In what the frozen base is held while the adapter learns."""

    NONE = "none"
    NF4 = "nf4"
    AUTO = "auto"


class Precision(StrEnum):
    """In what the network computes."""

    FP32 = "fp32"
    BF16 = "bf16"
    AUTO = "auto"
    """bf16 on a GPU, fp32 on a CPU, where bf16 is slower."""


class Device(StrEnum):
    """Where the network computes."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"
    """A GPU where there is one."""


class TemplateSource(StrEnum):
    """Whose chat template the model learns and ships with."""

    BASE = "base"
    PROFILE = "profile"
    """That of `models/okla/profile`; the base must know its special tokens."""


class SystemPrompt(StrEnum):
    """What a conversation without a system message begins with."""

    NONE = "none"
    PROFILE = "profile"
    """The system prompt of `models/okla/profile`, as it is served."""


class MergePrecision(StrEnum):
    """In what base and adapter are added up; never in a quantised form."""

    FP32 = "fp32"
    BF16 = "bf16"
    """Half the memory, for bases that fp32 does not hold."""


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterConfig(_Config):
    """Shape of the adapter."""

    rank: Annotated[int, Field(gt=0, le=512)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The adapter's product is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Linear layers that get an adapter; all of the blocks is better than attention alone.

    Names are those of Hugging Face, for example `[q_proj, v_proj]`.
    """


class OptimConfig(_Config):
    """AdamW over the adapter, with a warm-up and a cosine."""

    n_steps: Annotated[int, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)] = 8
    """Conversations in one step."""
    micro_batch_size: Annotated[int, Field(gt=0)] | None = None
    """Conversations in one pass, where a whole batch does not fit into memory."""
    max_tokens: Annotated[int, Field(gt=0)] = 1024
    """Longer conversations lose their oldest turns, and the report says how many did."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    """About ten times what full fine-tuning would take."""
    final_rate_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    checkpoint_every_steps: Annotated[int, Field(gt=0)] = 100

    @model_validator(mode="after")
    def _micro_batches_fill_a_batch(self) -> Self:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )
        return self


class SampleConfig(_Config):
    """The look at written answers during training."""

    every_steps: Annotated[int, Field(gt=0)] = 100
    n_loss: Annotated[int, Field(gt=0)] = 256
    """Conversations of the dev split whose loss is measured, evenly over the file."""
    n_conversations: Annotated[int, Field(ge=0)] = 16
    """Conversations of the dev split that are answered, greedily; 0 switches it off."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 192
    n_final: Annotated[int, Field(gt=0)] = 64
    """Conversations that the file that ships answers at the end: held-out ones, else of dev."""


class LoraConfig(_Config):
    """Everything that decides the weights of an adapter."""

    kind: Literal["lora"] = "lora"
    """Tells this configuration from that of a training from scratch."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """File name of the model, for example `okla-lora`."""
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    """Semantic version."""
    description: str = ""
    license: str
    """SPDX name of the licence; it cannot be wider than that of the base."""
    base: Path
    """Folder with `config.json`, safetensors and `tokenizer.json`. Relative to this file."""
    dataset: Path
    """Folder with `train.jsonl` and `dev.jsonl`. Relative to this file."""
    chat_template: TemplateSource = TemplateSource.BASE
    system_prompt: SystemPrompt = SystemPrompt.PROFILE
    quant: Quant = Quant.AUTO
    """`nf4` needs a GPU and bitsandbytes; `auto` takes it where both are there and says so."""
    precision: Precision = Precision.AUTO
    device: Device = Device.AUTO
    seed: int = 42
    threads: Annotated[int, Field(gt=0)] = 2
    """CPU threads. Part of the configuration: sums in another order give other weights."""
    peak_tflops: Annotated[float, Field(gt=0)] | None = None
    """Peak of the chip in the precision in use, for its used share; null takes a known chip's."""
    merge_precision: MergePrecision = MergePrecision.FP32
    q4_k_m: bool = True
    """Quantise what ships. False ships the F16 file, where widths are no multiple of 256."""
    base_gguf: bool = False
    """Also write the base as GGUF, over which the adapter's file can be laid."""
    adapter: AdapterConfig = AdapterConfig()
    optim: OptimConfig
    sample: SampleConfig = SampleConfig()

    _written: dict[str, str] = PrivateAttr(default_factory=dict)
    """Folders as the file has them: the same on every machine."""

    def sha256(self) -> str:
        """Return the hash of the configuration as it was written.

        What base and data hold is not part of it: `run.lock.json` has their hashes.
        """
        document = self.model_dump(mode="json", exclude={"peak_tflops"}) | self._written
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def is_lora_config(path: Path) -> bool:
    """Return whether a file says `kind: lora`; one that cannot be read does not."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(raw, dict) and raw.get("kind") == "lora"


def load_config(path: Path) -> LoraConfig:
    """Read a configuration; its relative folders become absolute.

    Raises:
        ConfigError: If the file is missing, is not YAML, or breaks a rule; the message says which.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise ConfigError(f"Cannot read the LoRA configuration {str(path)!r}: {err}") from err
    try:
        config = LoraConfig.model_validate(raw)
    except ValidationError as err:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in err.errors())
        raise ConfigError(f"LoRA configuration {str(path)!r}: {problems}") from err
    folder = path.absolute().parent
    written = {"base": config.base, "dataset": config.dataset}
    loaded = config.model_copy(update={name: folder / where for name, where in written.items()})
    loaded._written = {name: str(where) for name, where in written.items()}
    return loaded
