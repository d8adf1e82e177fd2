from collections.abc import Callable

import gguf
import numpy as np
import pytest

from tests.benchmarks.quantised_blocks import pack_scales, q4_k, q6_k

Maker = Callable[[np.random.Generator, int, int, float], np.ndarray]


@pytest.mark.parametrize(
    ("make", "kind"),
    [(q4_k, gguf.GGMLQuantizationType.Q4_K), (q6_k, gguf.GGMLQuantizationType.Q6_K)],
    ids=["q4_k", "q6_k"],
)
@pytest.mark.parametrize("columns", [256, 8192])
def test_blocks_are_weights_of_the_wanted_size(
    make: Maker, kind: gguf.GGMLQuantizationType, columns: int
) -> None:
    wanted = columns**-0.5
    blocks = make(np.random.default_rng(1), 2**20 // columns, columns, wanted)
    weights = gguf.quants.dequantize(blocks, kind)
    assert weights.shape == (2**20 // columns, columns)
    assert np.isfinite(weights).all()
    assert weights.std() == pytest.approx(wanted, rel=0.02)
    assert abs(weights.mean()) < 0.01 * wanted


def test_rows_are_whole_blocks() -> None:
    with pytest.raises(ValueError, match="300 columns are no multiple of 256"):
        q4_k(np.random.default_rng(0), 1, 300, 1.0)


def test_scales_and_minimums_are_found_again() -> None:
    # One weight of 1 in every group of 32: the value is scale - minimum, so both are told apart.
    rng = np.random.default_rng(2)
    scales, mins = rng.integers(0, 64, (2, 50, 8), dtype=np.uint8)
    blocks = np.zeros((50, 144), dtype=np.uint8)
    blocks[:, :4] = np.array([1, 1], dtype=np.float16).view(np.uint8)
    blocks[:, 4:16] = pack_scales(scales, mins)
    blocks[:, 16:] = 0x11
    weights = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_K).reshape(50, 8, 32)
    assert (weights == (scales.astype(int) - mins)[:, :, None]).all()
