"""A decoder of GPT-2 small's shape in plain torch: 12 layers, width 768, 12 heads, 50 257 tokens, 1024 positions.

Source of the shape: Radford et al., "Language models are unsupervised multitask learners", 2019; its published model
has the same layers and the same 124 439 808 parameters (the output projection shares the token embedding's weight).
Weights are random: time and counts do not depend on their values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS = 12
WIDTH = 768
HEADS = 12
VOCABULARY = 50257
POSITIONS = 1024
HEAD_WIDTH = WIDTH // HEADS


class Attention(nn.Module):
    """Causal self-attention; with a cache, one new position attends to all that the cache holds."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, cache: Tensor | None = None) -> Tensor:
        """``x``: (batch, positions, width). ``cache``: (2, batch, heads, length, head width); its last place is
        overwritten with the new key and value."""
        batch, positions, _ = x.shape
        qkv = self.qkv(x).view(batch, positions, 3, HEADS, HEAD_WIDTH)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if cache is not None:
            # Written in place: concatenating would copy the whole cache for every token.
            cache[0, :, :, -positions:] = key
            cache[1, :, :, -positions:] = value
            key, value = cache[0], cache[1]
        x = F.scaled_dot_product_attention(query, key, value, is_causal=cache is None)
        return self.out(x.transpose(1, 2).reshape(batch, positions, WIDTH))


class Block(nn.Module):
    """Attention and a four-times-wider perceptron, each behind a layer normalisation and beside a residual path."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(approximate="tanh"), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, cache: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), cache)
        return x + self.mlp(self.norm2(x))


class GPT2(nn.Module):
    """The decoder. Under ``eval()`` it projects the last position alone, since serving needs no other logits; under
    ``train()`` it projects every position, since each has a target."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(POSITIONS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens: Tensor, cache: Tensor | None = None) -> Tensor:
        """Logits, (batch, positions or 1, vocabulary), of ``tokens``, (batch, positions).

        ``cache``: (layers, 2, batch, heads, length, head width) for decoding, or None; ``tokens`` then are the last of
        the ``length`` positions, and their keys and values are written into it.
        """
        positions = tokens.shape[1]
        start = 0 if cache is None else cache.shape[-2] - positions
        x = self.token(tokens) + self.position(torch.arange(start, start + positions, device=tokens.device))
        for index, block in enumerate(self.blocks):
            x = block(x, None if cache is None else cache[index])
        if not self.training:
            x = x[:, -1:]
        return self.head(self.norm(x))
