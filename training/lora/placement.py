"""Where and in what numbers a training computes: asked for, decided, said."""

import importlib.util
from typing import Literal, NamedTuple

import torch

from training.chips import peak_bf16_tflops
from training.errors import ConfigError
from training.lora.config import Device, LoraConfig, Precision, Quant


class Placement(NamedTuple):
    """What was decided; `run.lock.json` has it."""

    device: Literal["cpu", "cuda"]
    precision: Precision
    """FP32 or BF16."""
    quant_backend: Literal["none", "nf4"]
    quant_reason: str
    """Why the base is held that way."""
    chip: str
    peak_tflops: float | None
    """Of the chip in bf16; None where it is not known."""

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch names it."""
        return torch.bfloat16 if self.precision is Precision.BF16 else torch.float32


def place(
    config: LoraConfig, *, has_gpu: bool | None = None, has_bitsandbytes: bool | None = None
) -> Placement:
    """Decide device, precision and quantisation.

    Args:
        config: What is asked for.
        has_gpu: None looks.
        has_bitsandbytes: None looks.

    Raises:
        ConfigError: If what is asked for by name cannot be had here. Only `auto` falls back.
    """
    if has_gpu is None:
        has_gpu = torch.cuda.is_available()
    if has_bitsandbytes is None:
        has_bitsandbytes = importlib.util.find_spec("bitsandbytes") is not None
    if config.device is Device.CUDA and not has_gpu:
        raise ConfigError("device: cuda was asked for, but torch sees no GPU; use auto or cpu")
    on_gpu = has_gpu and config.device is not Device.CPU
    quant, reason = _quant(config.quant, on_gpu=on_gpu, has_bitsandbytes=has_bitsandbytes)
    precision = config.precision
    if precision is Precision.AUTO:
        precision = Precision.BF16 if on_gpu else Precision.FP32
    chip = torch.cuda.get_device_name(0) if on_gpu and torch.cuda.is_available() else "cpu"
    known = peak_bf16_tflops(chip)
    return Placement(
        device="cuda" if on_gpu else "cpu",
        precision=precision,
        quant_backend=quant,
        quant_reason=reason,
        chip=chip,
        peak_tflops=config.peak_tflops or (known if precision is Precision.BF16 else None),
    )


def _quant(
    asked: Quant, *, on_gpu: bool, has_bitsandbytes: bool
) -> tuple[Literal["none", "nf4"], str]:
    if asked is Quant.NONE:
        return "none", "asked for"
    lacking = [
        what
        for what, there in (("a GPU", on_gpu), ("the package bitsandbytes", has_bitsandbytes))
        if not there
    ]
    if not lacking:
        return "nf4", "asked for" if asked is Quant.NF4 else "a GPU and bitsandbytes are there"
    missing = " and ".join(lacking)
    if asked is Quant.NF4:
        raise ConfigError(
            f"quant: nf4 was asked for and needs {missing}, not found here; "
            "use auto or none for an adapter over the full base"
        )
    return "none", f"auto found no nf4: it needs {missing}"
