"""A few convolutions at the latents' own resolution, behind the transformer whose tokens are four cells large."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class RefinerBlock(nn.Module):
    """Two 3 × 3 convolutions steered by the condition (FiLM, Perez et al. 2018), added to their input."""

    def __init__(self, channels: int, condition_width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(condition_width, 2 * channels)
        for parameter in self.film.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        condition: Float[Tensor, "batch condition_width"],
    ) -> Float[Tensor, "batch channels height width"]:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = self.first(functional.silu(x)) * (1 + scale) + shift
        return x + self.second(functional.silu(hidden))


class Refiner(nn.Module):
    """Corrects the transformer's velocity cell by cell from the noisy section and the newest history frame.

    A step moves the view by a few cells, less than two tokens: that shift and the seams between tokens are local work.
    """

    def __init__(self, latent_channels: int, channels: int, blocks: int, condition_width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3 * latent_channels, channels, 3, padding=1)
        self.blocks = nn.ModuleList(RefinerBlock(channels, condition_width) for _ in range(blocks))
        self.leave = nn.Conv2d(channels, latent_channels, 3, padding=1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        velocity: Float[Tensor, "batch channel height width"],
        noisy: Float[Tensor, "batch channel height width"],
        newest: Float[Tensor, "batch channel height width"],
        condition: Float[Tensor, "batch condition_width"],
        told: Float[Tensor, "batch channels height width"] | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """`told` is what warped views say of the cells."""
        x = self.enter(torch.cat((velocity, noisy, newest), 1))
        x = x if told is None else x + told
        for block in self.blocks:
            x = block(x, condition)
        return velocity + self.leave(functional.silu(x))
