"""Networks of a reader's own, for tests: what may follow ``package.module:``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


def with_shape() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Linear(6, 2), (6,)


def with_inputs():
    def inputs(batch_size: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (torch.zeros((batch_size, 5), dtype=torch.int64, device=device),)

    return nn.Embedding(7, 3), inputs


class _Selects(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x.sum(-1).nonzero()]


def selects_by_value() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Linear(6, 2), _Selects()), (6,)


class _Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def branches_by_value() -> tuple[nn.Module, tuple[int, ...]]:
    return _Branches(), (6,)


class _Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(6)  # neither a parameter nor a buffer

    def forward(self, x: Tensor) -> Tensor:
        return (x + torch.arange(6)) * self.scale + torch.zeros(6, device="cpu")


def makes_tensors() -> tuple[nn.Module, tuple[int, ...]]:
    return _Positions(), (6,)


class _Filters(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(x)


def without_formula() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Linear(8, 8, bias=False), _Filters()), (8, 8)


not_callable = 3
