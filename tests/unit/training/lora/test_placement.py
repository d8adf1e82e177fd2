"""What was asked for by name is had or refused; only `auto` falls back, and says so."""

import pytest

from training.chips import peak_share
from training.errors import ConfigError
from training.lora.config import LoraConfig
from training.lora.placement import place

GOOD = {
    "name": "x", "version": "1.0.0", "license": "MIT", "base": "b", "dataset": "d",
    "optim": {"n_steps": 1},
}  # fmt: skip


def a_config(**changes: object) -> LoraConfig:
    return LoraConfig.model_validate(GOOD | changes)


@pytest.mark.parametrize(
    ("has_gpu", "has_bitsandbytes", "backend", "reason"),
    [
        (True, True, "nf4", "a GPU and bitsandbytes are there"),
        (True, False, "none", "it needs the package bitsandbytes"),
        (False, True, "none", "it needs a GPU"),
        (False, False, "none", "it needs a GPU and the package bitsandbytes"),
    ],
)
def test_auto_takes_nf4_where_it_can_and_says_why_not(
    has_gpu: bool, has_bitsandbytes: bool, backend: str, reason: str
) -> None:
    where = place(a_config(), has_gpu=has_gpu, has_bitsandbytes=has_bitsandbytes)
    assert where.quant_backend == backend
    assert reason in where.quant_reason


def test_nf4_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs the package bitsandbytes, not found"):
        place(a_config(quant="nf4"), has_gpu=True, has_bitsandbytes=False)
    with pytest.raises(ConfigError, match="needs a GPU, not found"):
        place(a_config(quant="nf4", device="cpu"), has_gpu=True, has_bitsandbytes=True)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="sees no GPU"):
        place(a_config(device="cuda"), has_gpu=False, has_bitsandbytes=False)


def test_none_is_never_quantised() -> None:
    where = place(a_config(quant="none"), has_gpu=True, has_bitsandbytes=True)
    assert (where.quant_backend, where.device, where.precision) == ("none", "cuda", "bf16")


def test_a_cpu_computes_in_fp32_unless_asked() -> None:
    where = place(a_config(), has_gpu=False, has_bitsandbytes=False)
    assert (where.device, where.precision, where.peak_tflops) == ("cpu", "fp32", None)
    asked = place(a_config(precision="bf16"), has_gpu=False, has_bitsandbytes=False)
    assert asked.precision == "bf16"


def test_the_used_share_is_six_operations_a_weight_and_token() -> None:
    # 8e9 weights, 5,000 tokens/s: 240 Tflop/s of 989.
    assert peak_share(8_000_000_000, 5_000, 989) == pytest.approx(240 / 989)
    where = place(a_config(peak_tflops=2.0), has_gpu=False, has_bitsandbytes=False)
    assert where.peak_tflops == 2.0
