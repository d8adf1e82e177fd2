"""What chips can do at most, to say which share of it a training uses."""

_PEAK_BF16_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}
"""Dense peaks of the SXM or PCIe data sheets, by a part of the device's name, most special first.

NVIDIA data sheets; without sparsity.
"""


def peak_bf16_tflops(chip: str) -> float | None:
    """Return the dense peak of a chip in bf16 by its name, or None where it is not known."""
    return next((peak for part, peak in _PEAK_BF16_TFLOPS.items() if part in chip), None)


def peak_share(n_parameters: int, tokens_per_second: float, peak_tflops: float) -> float:
    """Return the used share of a chip's peak, by the usual 6 N operations for a token.

    Two of the six are forward, two carry gradients to earlier layers, two are the gradients of the
    weights. LoRA saves most of the last two, so the chip did about two thirds of this.
    """
    return 6 * n_parameters * tokens_per_second / (peak_tflops * 1e12)
