"""The world model: a transformer that makes the next section from a packed history and the player's actions.

History tokens attend to history alone and target tokens to everything, so the history's keys and values are computed
once a section and every denoising step runs on the section's few tokens. In training one history pass serves several
noise draws of the same target.
"""

from dataclasses import asdict, dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from models.attention import Attention, Layers
from models.block import Block
from models.codebook import Codebook
from models.history import History
from models.history_cache import HistoryCache, Tokens
from models.kernel import Kernel
from models.packer import AGE_FEATURES, ActionEmbedding, HistoryPacker, Pack, age_features, pad_actions
from models.patchifier import LatentPatchifier, unpatchify
from models.refiner import Refiner
from models.rotary import Phases, pooled_phases
from models.schedule import PACKED, Schedule
from models.viewpoint import MoveEmbedding, relative_poses
from models.warped_views import WarpedCells, WarpedViews
from models.world_phases import WorldPhases

SIGMA_FEATURES = 128


@dataclass(frozen=True, kw_only=True)
class TransformerSettings:
    """Sizes of the transformer and the action space it is told about."""

    schedule: str = "td_f16k4f4k2f2k1_r4k1_g1"
    """which history frames enter through which kernel, in the paper's notation"""
    latent_channels: int = 16
    latent_height: int = 12
    latent_width: int = 16
    width: int = 384
    layers: int = 7
    heads: int = 6
    mlp_ratio: int = 3
    action_sizes: tuple[int, ...] = (3, 3, 3)
    """number of choices of each action factor"""
    action_width: int = 64
    refiner_channels: int = 64
    """channels of the convolutions behind the transformer; 0 leaves them out"""
    action_window: int = 8
    """how many of the newest actions, the coming one included, condition each target frame (the player has inertia)"""
    world_heads: int = 3
    """heads whose rotary phases tell directions of the world instead of columns of the view"""
    told_moves: bool = True
    """tell the model where each frame was seen from"""
    view_deg: float = 90.0
    """how wide the view is"""
    warped_channels: int = 16
    """features of past frames that are warped to the coming frame's place, beside their blended latents; 0 leaves both
    out"""
    codes: int = 0
    """codes of a discretised history, where the schedule says +D; 0 otherwise"""
    attention: Attention = "once"
    """who looks at whom: once, joint or causal"""


class WorldTransformer(ModelMixin, ConfigMixin):
    """Predicts the flow velocity of a section; see `encode_history`, `denoise` and, for training, `forward`."""

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        schedule: str = "td_f16k4f4k2f2k1_r4k1_g1",
        latent_channels: int = 16,
        latent_height: int = 12,
        latent_width: int = 16,
        width: int = 384,
        layers: int = 7,
        heads: int = 6,
        mlp_ratio: int = 3,
        action_sizes: tuple[int, ...] | list[int] = (3, 3, 3),
        action_width: int = 64,
        action_window: int = 8,
        refiner_channels: int = 0,
        world_heads: int = 0,
        told_moves: bool = False,
        view_deg: float = 90.0,
        codes: int = 0,
        attention: Attention = "once",
        warped_channels: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= world_heads < heads:
            raise ValueError(f"{world_heads} world heads of {heads} heads; leave at least one to the view")
        self.schedule = Schedule.parse(schedule)
        if self.schedule.discretised != (codes > 0):
            raise ValueError(
                f"schedule {schedule!r} with {codes} codes: a discretised history (+D) needs codes, others have none"
            )
        self.codebook = Codebook(codes, latent_channels) if codes else None
        self.rows, self.cols = Kernel.of_rate(1).token_grid(latent_height, latent_width)
        head_dim = width // heads
        self.action_embedding = ActionEmbedding(tuple(action_sizes), action_width)
        self.packer = HistoryPacker(
            self.schedule, latent_channels, latent_height, latent_width, width, head_dim, action_width
        )
        self.patchify = LatentPatchifier(latent_channels, Kernel.of_rate(1), width)
        self.blocks = Layers((Block(width, heads, mlp_ratio, world_heads) for _ in range(layers)), attention)
        self.sigma_mlp = _mlp(SIGMA_FEATURES, width)
        self.history_sigma_mlp = _mlp(SIGMA_FEATURES, width)
        self.action_mlp = _mlp(action_window * action_width, width)
        self.history_condition = nn.Parameter(torch.zeros(width))
        self.modulation = nn.Linear(width, 6 * width)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, 4 * latent_channels)
        self.refiner = Refiner(latent_channels, refiner_channels, 3, width) if refiner_channels else None
        for layer in (self.modulation, self.final_modulation, self.final):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        times = torch.arange(self.schedule.section, dtype=torch.float32)
        cos, sin = pooled_phases(times, self.rows, self.cols, head_dim, (1, 1, 1))
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.moves = MoveEmbedding(width) if told_moves else None
        # Of a planned end itself, which is made before what leads there.
        self.gap = nn.Linear(AGE_FEATURES, width) if self.schedule.last else None
        self.warped = (
            WarpedViews(latent_channels, warped_channels, width, view_deg) if warped_channels else None
        )
        self.warped_cells = (
            WarpedCells(self.warped.channels, refiner_channels)
            if self.warped is not None and refiner_channels
            else None
        )
        self.world_phases = (
            WorldPhases(self.schedule, latent_height, latent_width, head_dim, view_deg)
            if world_heads
            else None
        )

    @classmethod
    def of(cls, settings: TransformerSettings) -> "WorldTransformer":
        return cls(**asdict(settings))

    def seen(
        self, history: History, noise: Float[Tensor, "batch frames channel height width"] | None
    ) -> History:
        """A clean history as the model is to see it: codes where the schedule says +D, and noise of the told level."""
        if self.codebook is not None:
            history = history.mapped(self.codebook)
        return history if noise is None else history.noised(noise)

    def pack_clean(
        self, history: History, noise: Float[Tensor, "batch frames channel height width"] | None = None
    ) -> Pack:
        """`pack` of a history as memory keeps it."""
        return self.pack(self.seen(history, noise))

    def pack(self, history: History) -> Pack:
        """FramePack: the fixed-length context of a history, whatever its length."""
        tokens, present, times = self.packer(history, self.action_embedding, self.moves)
        phases, section_phases = self._phases(history)
        neighbour, steer = history.neighbour, None
        if self.moves is not None:
            # One that does not exist yet, at the end of inverted sampling, lies nowhere else.
            known = neighbour.present[:, :, None]
            steps = []
            for i in range(self.schedule.section):
                own = history.section_poses[:, i]
                steps.append(relative_poses(torch.where(known, neighbour.poses, own[:, None]), own))
            steer = self.moves.of_section(torch.cat(steps, 1))
        if self.gap is not None:
            told = self.gap(age_features(history.gap[:, None]).to(self.dtype))
            steer = told.expand(-1, self.schedule.section, -1) if steer is None else steer + told
        warped = None if self.warped is None else self.warped(history)
        return Pack(
            tokens=tokens, present=present, phases=phases, newest=neighbour.latents[:, 0],
            section_phases=section_phases, steer=steer, times=times, warped=warped,
        )  # fmt: skip

    def _phases(self, history: History) -> tuple[Phases, Phases]:
        """Rotary phases of the history's tokens and of the section's."""
        section = self.cos, self.sin
        packed = self.packer.phases(history.tail.latents.shape[1])
        if self.world_phases is None:
            return Phases(cos=packed[0], sin=packed[1]), Phases(cos=self.cos, sin=self.sin)
        origin = history.section_poses[:, :1, 2]
        poses = torch.cat([history.part(part).poses for part in PACKED], 1)
        cos, sin = self.world_phases.history(poses[..., 2] - origin, *packed)
        own_cos, own_sin = self.world_phases.section(history.section_poses[..., 2] - origin, *section)
        return (
            Phases(cos=packed[0], sin=packed[1], world_cos=cos, world_sin=sin),
            Phases(cos=self.cos, sin=self.sin, world_cos=own_cos, world_sin=own_sin),
        )

    def encode_history(self, pack: Pack, sigma: Float[Tensor, " batch"]) -> HistoryCache:
        """Keys and values of the history; `sigma` is the noise level of its latents. Once a section."""
        condition = self.history_sigma_mlp(sigma_features(sigma).to(self.dtype)) + self.history_condition
        history = Tokens(
            x=pack.tokens[:, None], modulation=self._modulate(condition[:, None]), phases=pack.phases
        )
        keys, values = self.blocks.history(history, pack.present, pack.times)
        told, warped, cells = pack.warped, self.warped, self.warped_cells
        return HistoryCache(
            keys=keys, values=values, present=pack.present, sigma=sigma, newest=pack.newest,
            section_phases=pack.section_phases, steer=pack.steer, tokens=None if keys else history,
            warped_tokens=None if told is None or warped is None else warped.of_tokens(told),
            warped_cells=None if told is None or cells is None else cells(told),
        )  # fmt: skip

    def denoise(
        self,
        noisy: Float[Tensor, "batch section channel height width"],
        sigma: Float[Tensor, " batch"],
        actions: Int[Tensor, "batch step factor"],
        cache: HistoryCache,
    ) -> Float[Tensor, "batch section channel height width"]:
        """Velocity noise − x_0 of the section at noise level sigma in [0, 1].

        `actions` are the newest actions of the history followed by the section's; the last `section` are the section's.
        """
        return self.denoise_draws(noisy[:, None], sigma[:, None], actions, cache)[:, 0]

    def denoise_draws(
        self,
        noisy: Float[Tensor, "batch draw section channel height width"],
        sigma: Float[Tensor, "batch draw"],
        actions: Int[Tensor, "batch step factor"],
        cache: HistoryCache,
    ) -> Float[Tensor, "batch draw section channel height width"]:
        """`denoise` for several noise draws of the same section: all look at one history, none at another draw."""
        draws = noisy.shape[1]
        condition = self._condition(sigma, cache, actions)
        x, cells = self.patchify(noisy.flatten(1, 2)), cache.warped_cells
        x = x if cache.warped_tokens is None else x + cache.warped_tokens.repeat(1, draws, 1, 1)
        cells = None if cells is None else cells.repeat(1, draws, 1, 1, 1).flatten(0, 1)
        section = Tokens(x=x, modulation=self._modulate(condition), phases=cache.section_phases)
        x = self.blocks.section(section, cache, draws)
        shift, scale = self.final_modulation(functional.silu(condition)).unsqueeze(2).chunk(2, dim=-1)
        x = functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
        velocity = unpatchify(self.final(x), noisy.shape[3], self.rows, self.cols)
        if self.refiner is not None:
            newest = cache.newest[:, None].expand_as(velocity).flatten(0, 1)
            steered = functional.silu(condition).flatten(0, 1)
            flat = self.refiner(velocity.flatten(0, 1), noisy.flatten(0, 2), newest, steered, cells)
            velocity = flat.view_as(velocity)
        return velocity.unflatten(1, noisy.shape[1:3])

    def forward(
        self,
        history: History,
        noisy: Float[Tensor, "batch draw section channel height width"],
        sigma: Float[Tensor, "batch draw"],
        actions: Int[Tensor, "batch step factor"],
    ) -> Float[Tensor, "batch draw section channel height width"]:
        """Training pass: one history pass serves all noise draws of its target."""
        cache = self.encode_history(self.pack(history), history.sigma)
        return self.denoise_draws(noisy, sigma, actions, cache)

    def _condition(
        self,
        sigma: Float[Tensor, "batch draw"],
        cache: HistoryCache,
        actions: Int[Tensor, "batch step factor"],
    ) -> Float[Tensor, "batch frame width"]:
        """One vector a target frame of every draw: noise levels, the actions up to that frame, the move to it."""
        section, window = self.schedule.section, self.config.action_window
        vectors = self.action_embedding(pad_actions(actions, window + section - 1))
        windows = vectors.unfold(1, window, 1).transpose(2, 3).flatten(2)
        levels = self.sigma_mlp(sigma_features(sigma.flatten()).to(self.dtype)).unflatten(0, sigma.shape)
        told = self.history_sigma_mlp(sigma_features(cache.sigma).to(self.dtype))
        steered = self.action_mlp(windows) if cache.steer is None else self.action_mlp(windows) + cache.steer
        frames = told[:, None, None] + levels[:, :, None] + steered[:, None]
        return frames.flatten(1, 2)

    def _modulate(
        self, condition: Float[Tensor, "batch frame width"]
    ) -> Float[Tensor, "batch frame six width"]:
        return self.modulation(functional.silu(condition)).unflatten(-1, (6, -1))


def sigma_features(sigma: Float[Tensor, " batch"]) -> Float[Tensor, "batch feature"]:
    """Sinusoidal features of 1000 sigma (Vaswani et al. 2017), frequencies from 1 to 1/10000."""
    half = SIGMA_FEATURES // 2
    frequencies = 10_000 ** -(torch.arange(half, device=sigma.device, dtype=torch.float32) / half)
    angles = 1000.0 * sigma.float()[:, None] * frequencies
    return torch.cat((torch.cos(angles), torch.sin(angles)), dim=-1)


def _mlp(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
