"""Random weights in the quantised formats of llama.cpp, written block by block.

gguf cannot quantise to these formats, and quantising real numbers would need the whole model in
memory first. A block is a few scales and random small integers, so random blocks are as good as
quantised random weights, provided the scales give the wanted size.
"""

import numpy as np
from numpy.typing import NDArray

BLOCK = 256
"""Weights per block; rows are whole blocks."""

_Q4_STD = float(np.sqrt((16**2 - 1) / 12))
_Q6_STD = float(np.sqrt((64**2 - 1) / 12 + 0.25))  # 0..63 less 32: the mean is half a step off
_Q4_SCALES = np.arange(32, 64)
_Q6_SCALES = np.concatenate([np.arange(-127, -31), np.arange(32, 128)])

Bytes = NDArray[np.uint8]


def q4_k(rng: np.random.Generator, rows: int, columns: int, std: float) -> Bytes:
    """Return random Q4_K weights with mean 0.

    A weight is d * scale * q - dmin * min, with q in 0..15. With min = scale and dmin = 7.5 d it is
    d * scale * (q - 7.5).

    Args:
        rng: Source of randomness.
        rows: Rows of the matrix.
        columns: A multiple of 256.
        std: Standard deviation of the weights.

    Returns:
        (rows, bytes per row) uint8.
    """
    n = _blocks(rows, columns)
    d = std / (_Q4_STD * _rms(_Q4_SCALES))
    scales = rng.choice(_Q4_SCALES, (n, 8)).astype(np.uint8)
    blocks = np.empty((n, 144), dtype=np.uint8)
    blocks[:, :4] = np.array([d, 7.5 * d], dtype=np.float16).view(np.uint8)
    blocks[:, 4:16] = pack_scales(scales, scales)
    blocks[:, 16:] = _random_bytes(rng, n, 128)
    return blocks.reshape(rows, -1)


def q6_k(rng: np.random.Generator, rows: int, columns: int, std: float) -> Bytes:
    """Return random Q6_K weights; see `q4_k`. A weight is d * scale * (q - 32), with q in 0..63.

    Scales of both signs make the mean 0.
    """
    n = _blocks(rows, columns)
    d = std / (_Q6_STD * _rms(_Q6_SCALES))
    blocks = np.empty((n, 210), dtype=np.uint8)
    blocks[:, :192] = _random_bytes(rng, n, 192)
    blocks[:, 192:208] = rng.choice(_Q6_SCALES, (n, 16)).astype(np.int8).view(np.uint8)
    blocks[:, 208:] = np.array([d], dtype=np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def pack_scales(scales: Bytes, mins: Bytes) -> Bytes:
    """Pack eight 6-bit scales and eight 6-bit minimums into 12 bytes, as Q4_K does.

    Args:
        scales: (n, 8) below 64.
        mins: (n, 8) below 64.
    """
    packed = np.empty((len(scales), 12), dtype=np.uint8)
    packed[:, 0:4] = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    packed[:, 4:8] = mins[:, :4] | ((mins[:, 4:] >> 4) << 6)
    packed[:, 8:12] = (scales[:, 4:] & 15) | ((mins[:, 4:] & 15) << 4)
    return packed


def _blocks(rows: int, columns: int) -> int:
    if columns % BLOCK:
        raise ValueError(f"{columns} columns are no multiple of {BLOCK}")
    return rows * (columns // BLOCK)


def _rms(scales: NDArray[np.int64]) -> float:
    return float(np.sqrt(np.mean(scales.astype(np.float64) ** 2)))


def _random_bytes(rng: np.random.Generator, n: int, size: int) -> Bytes:
    return np.frombuffer(rng.bytes(n * size), dtype=np.uint8).reshape(n, size)
