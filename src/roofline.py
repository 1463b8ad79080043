"""Roofline mathematics: numbers in, numbers out; no I/O and no torch.

Source of the model: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures", Communications of the ACM 52(4), 2009, doi:10.1145/1498765.1498785.

Every function takes floats or NumPy arrays, which broadcast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def _positive(**values: ArrayLike) -> None:
    for name, value in values.items():
        if not np.all(np.asarray(value, dtype=float) > 0):
            raise ValueError(f"{name} must be positive, not {value!r}")


def arithmetic_intensity(flop: ArrayLike, bytes_moved: ArrayLike) -> np.ndarray | float:
    """Arithmetic (operational) intensity in FLOP per byte moved to or from memory. Raises ValueError on no bytes."""
    _positive(bytes_moved=bytes_moved)
    return np.divide(flop, bytes_moved)


def ridge_point(peak_flop_per_s: ArrayLike, bandwidth_byte_per_s: ArrayLike) -> np.ndarray | float:
    """Intensity in FLOP/byte at which the roof's slope meets its flat part: the machine's balance."""
    _positive(peak_flop_per_s=peak_flop_per_s, bandwidth_byte_per_s=bandwidth_byte_per_s)
    return np.divide(peak_flop_per_s, bandwidth_byte_per_s)


def attainable_flop_per_s(
    intensity: ArrayLike, peak_flop_per_s: ArrayLike, bandwidth_byte_per_s: ArrayLike
) -> np.ndarray | float:
    """The roof at an intensity in FLOP/byte: min(peak, bandwidth x intensity), in FLOP/s."""
    _positive(peak_flop_per_s=peak_flop_per_s, bandwidth_byte_per_s=bandwidth_byte_per_s)
    return np.minimum(peak_flop_per_s, np.multiply(bandwidth_byte_per_s, intensity))


def minimum_latency_s(
    flop: ArrayLike, bytes_moved: ArrayLike, peak_flop_per_s: ArrayLike, bandwidth_byte_per_s: ArrayLike
) -> np.ndarray | float:
    """The time below which work cannot finish, in s: the longer of computing and moving, perfectly overlapped."""
    _positive(peak_flop_per_s=peak_flop_per_s, bandwidth_byte_per_s=bandwidth_byte_per_s)
    return np.maximum(np.divide(flop, peak_flop_per_s), np.divide(bytes_moved, bandwidth_byte_per_s))


def is_compute_bound(
    intensity: ArrayLike, peak_flop_per_s: ArrayLike, bandwidth_byte_per_s: ArrayLike
) -> np.ndarray | bool:
    """True where the intensity in FLOP/byte reaches the ridge point; memory-bound elsewhere."""
    return np.greater_equal(intensity, ridge_point(peak_flop_per_s, bandwidth_byte_per_s))
