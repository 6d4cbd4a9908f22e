"""Latents -> unit key vectors; recent latents and actions -> unit query vector."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class LearnedDescriptorSettings:
    channels: int
    """Channels of a latent."""
    height: int = 12
    """Rows of a latent; even."""
    width: int = 16
    """Columns of a latent; even."""
    window: int = 4
    """Recent latents in a query, newest first (for instance the frames 1, 2, 4 and 8 before the section)."""
    steps: int = 9
    """Actions in a query, oldest first: the recent ones, then the section's."""
    factor_sizes: tuple[int, ...] = (3, 3, 3)
    """Choices of each factor of an action."""
    hidden: int = 56
    """Channels inside; a multiple of 8."""
    head_channels: int = 16
    """Channels of the map that is flattened into a vector."""
    dim: int = 128
    """Length of keys and queries."""


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, each after GroupNorm, FiLM (Perez et al. 2018) and SiLU; starts as identity."""

    def __init__(self, channels: int, condition_dim: int = 0):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for _ in range(2))
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        for parameter in second.parameters():
            nn.init.zeros_(parameter)
        self.convolutions = nn.ModuleList([first, second])
        self.film = nn.Linear(condition_dim, 4 * channels) if condition_dim else None

    def forward(
        self,
        features: Float[Tensor, "batch channel height width"],
        condition: Float[Tensor, "batch condition_dim"] | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        x = features
        films = [None, None] if self.film is None else self.film(condition)[..., None, None].chunk(2, dim=1)
        for norm, convolution, film in zip(self.norms, self.convolutions, films, strict=True):
            x = norm(x)
            if film is not None:
                scale, shift = film.chunk(2, dim=1)
                x = x * (1 + scale) + shift
            x = convolution(F.silu(x))
        return features + x


class Head(nn.Module):
    """Feature map -> unit vector: from a flatten, which says *where* in the view things are, and from mean and
    maximum over the view, which say what is in it."""

    def __init__(self, channels: int, head_channels: int, height: int, width: int, dim: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.squeeze = nn.Conv2d(channels, head_channels, 1)
        self.project_layout = nn.Linear(head_channels * height * width, dim)
        self.project_content = nn.Linear(2 * channels, dim)

    def forward(self, features: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch dim"]:
        x = F.silu(self.norm(features))
        content = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        vector = self.project_layout(self.squeeze(x).flatten(1)) + self.project_content(content)
        return F.normalize(vector.float(), dim=1)


class LearnedDescriptor(ModelMixin, ConfigMixin):
    """Query · key predicts how much of the coming view the past frame behind the key covers.

    One trunk turns every latent, of a key or of a query's window, into a map of half the size. The query joins the
    maps of its window in residual blocks that the actions steer (FiLM) to a map of the coming view, and one head
    reads that map and those of keys alike: the paper's estimate X̂, in features. Before training the query is about
    the key of the newest latent. GroupNorm over the whole frame makes a key indifferent to overall contrast, which
    the model's own, slightly blurred frames lose first.
    """

    @register_to_config
    def __init__(
        self,
        channels: int,
        height: int = 12,
        width: int = 16,
        window: int = 4,
        steps: int = 9,
        factor_sizes: Sequence[int] = (3, 3, 3),
        hidden: int = 56,
        head_channels: int = 16,
        dim: int = 128,
    ):
        super().__init__()
        if height % 2 or width % 2 or hidden % 8:
            raise ValueError(f"height {height}, width {width} must be even, hidden {hidden} a multiple of 8")
        embedding_dim, condition_dim = 8, 64
        self.stem = nn.Conv2d(channels, hidden, 4, stride=2, padding=1)
        self.trunk = nn.Sequential(ResidualBlock(hidden), ResidualBlock(hidden))
        self.head = Head(hidden, head_channels, height // 2, width // 2, dim)
        self.embeddings = nn.ModuleList(nn.Embedding(steps * size, embedding_dim) for size in factor_sizes)
        self.condition = nn.Sequential(
            nn.Linear(steps * len(factor_sizes) * embedding_dim, 2 * condition_dim),
            nn.SiLU(),
            nn.Linear(2 * condition_dim, condition_dim),
            nn.SiLU(),
        )
        self.merge = nn.Conv2d(window * (hidden + 1), hidden, 1)
        with torch.no_grad():
            self.merge.weight.mul_(0.1)
            self.merge.weight[:, :hidden, 0, 0] += torch.eye(hidden)
        self.blocks = nn.ModuleList(ResidualBlock(hidden, condition_dim) for _ in range(2))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @classmethod
    def from_settings(cls, settings: LearnedDescriptorSettings) -> "LearnedDescriptor":
        return cls(**asdict(settings))

    @property
    def dim(self) -> int:
        """Length of keys and queries."""
        return self.config["dim"]

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """Learned inverse temperature of `coverage_loss`, at most 100 (CLIP, Radford et al. 2021, 2.5)."""
        return self.log_scale.float().exp().clamp(max=100)

    def keys(self, latents: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch dim"]:
        """float32 unit vectors of normalised latents."""
        return self.head(self.trunk(self.stem(latents.to(self.dtype))))

    def queries(
        self,
        latents: Float[Tensor, "batch window channel height width"],
        actions: Int64[Tensor, "batch steps factor"],
        present: Bool[Tensor, "batch window"],
    ) -> Float[Tensor, "batch dim"]:
        """float32 unit vectors: what a past frame that covers the coming section would have as its key.

        `latents` newest first, `actions` oldest first with the section's own last. Where `present` is false
        the world is younger than the window, and the latent there is not looked at. Actions before the start
        are zeros.
        """
        batch, window = latents.shape[:2]
        features = self.trunk(self.stem(latents.to(self.dtype).flatten(0, 1))).unflatten(0, (batch, window))
        here = present[:, :, None, None, None]
        features = torch.where(here, features, 0)
        flags = here.to(features.dtype).expand(-1, -1, -1, *features.shape[3:])
        x = self.merge(torch.cat([features, flags], dim=2).flatten(1, 2))
        condition = self.condition(self._embed(actions))
        for block in self.blocks:
            x = block(x, condition)
        return self.head(x)

    def _embed(self, actions: Int64[Tensor, "batch steps factor"]) -> Float[Tensor, "batch condition_in"]:
        """One vector for each step and factor, joined in order; every step has its own rows of the tables."""
        sizes = self.config["factor_sizes"]
        offsets = torch.arange(actions.shape[1], device=actions.device)
        parts = [
            table(actions[..., i] + offsets * size)
            for i, (table, size) in enumerate(zip(self.embeddings, sizes, strict=True))
        ]
        return torch.cat(parts, dim=2).flatten(1)
