"""One layer of the world transformer: attention over the history and the section, then a feed-forward."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.rotary import Phases


class HeadNorm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019) of queries and keys whose gain may be of another dtype than they are."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return functional.rms_norm(x, self.weight.shape) * self.weight


class Block(nn.Module):
    """Attention and feed-forward with adaptive layer norm (DiT, Peebles and Xie 2023; shared as in PixArt-α)."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, world_heads: int) -> None:
        super().__init__()
        self.heads, self.world_heads = heads, world_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = HeadNorm(width // heads)
        self.key_norm = HeadNorm(width // heads)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, mlp_ratio * width)
        self.down = nn.Linear(mlp_ratio * width, width)
        self.table = nn.Parameter(torch.zeros(6, width))

    def forward(
        self,
        x: Float[Tensor, "batch frame token width"],
        modulation: Float[Tensor, "batch frame six width"],
        phases: Phases,
        cached: tuple[Tensor, Tensor] | None,
        mask: Bool[Tensor, "batch #head #query key"] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the new tokens and this layer's keys and values of `x` (without the cached ones)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (modulation + self.table).unsqueeze(3).unbind(2)
        width = x.shape[-1]
        normed = functional.layer_norm(x, (width,)) * (1 + scale_a) + shift_a
        qkv = self.qkv(normed.flatten(1, 2)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        query = phases.rotate(self.query_norm(query), self.world_heads).to(value.dtype)
        key = phases.rotate(self.key_norm(key), self.world_heads).to(value.dtype)
        keys, values = key, value
        if cached is not None:
            keys, values = torch.cat((cached[0], key), 2), torch.cat((cached[1], value), 2)
        attended = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        attended = self.out(attended.transpose(1, 2).flatten(2)).view_as(x)
        x = x + gate_a * attended
        normed = functional.layer_norm(x, (width,)) * (1 + scale_m) + shift_m
        return x + gate_m * self.down(functional.gelu(self.up(normed), approximate="tanh")), key, value
