"""Precisions as torch knows them: the type that holds each, and the settings under which a case is measured.

A network is cast as a whole (``module.to(dtype)``), inputs too: no autocast, so that every operation works in the
precision that the case names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

DTYPES = {
    "fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16,
    "fp16": torch.float16, "int8": torch.int8,
}  # fmt: skip
"""The type that holds each precision. TF32 is fp32 in memory and rounded within the multiplier."""


def dtype(precision: str) -> torch.dtype:
    """The torch type that holds a precision. Raises ValueError on one that torch can't compute in."""
    if precision == "fp8" and hasattr(torch, "float8_e4m3fn"):
        return torch.float8_e4m3fn
    if precision not in DTYPES:
        raise ValueError(f"torch has no type for {precision}")
    return DTYPES[precision]


@contextmanager
def settings(precision: str) -> Iterator[None]:
    """Torch's settings for a precision: TF32 allowed in matrix products and cuDNN for "tf32" alone.

    fp32 thus means IEEE fp32 on every device, which is not torch's default for cuDNN. Restored afterwards.
    """
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    benchmark = torch.backends.cudnn.benchmark
    allowed = precision == "tf32"
    try:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
        # cuDNN's choice of algorithm by trial is what anybody after speed turns on; shapes here never change.
        torch.backends.cudnn.benchmark = True
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = cudnn
        torch.backends.cudnn.benchmark = benchmark
