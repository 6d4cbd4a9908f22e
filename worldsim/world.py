"""A world in play: one step an input, made from its memory, its actions and its seeds and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer, UInt8
from torch import Tensor

from models.flow import FlowSettings
from models.history import History
from models.packer import pad_actions
from retrieval.odometer import ACTIONS, CHUNK
from retrieval.whereabouts import Followed, Whereabouts, joined
from worldsim.checkpoint import WorldModels
from worldsim.errors import check_noise_level
from worldsim.memory import Memory
from worldsim.past import Ahead, foreseen, history_of, recall_for, recent_of, recognised, registered
from worldsim.recall import MemoryMode
from worldsim.section import Clock, Section, shown
from worldsim.section_maker import SectionMaker


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """How a world is played; None takes what the checkpoint says."""

    memory_mode: MemoryMode = "hybrid"
    """off, random, cosine, time, place, hybrid, or oracle (evaluation only: recalls by true poses)"""
    denoising_steps: int | None = None
    """Euler steps a section; fewer are faster"""
    history_noise: float = 0.0
    """level of the noise that the model sees its history under, and is told of (Chen et al. 2024, Diffusion Forcing)"""
    guidance: float | None = None
    """weight of history guidance, see `FlowSettings`"""
    layout_noise: float | None = None
    """level of the noise that the history is seen under while the layout is decided, see `FlowSettings`"""

    def flow(self, known: FlowSettings) -> FlowSettings:
        """How the sampler works in such a world of a model that says `known`. ValueError if a value is out of range."""
        asked = {name: getattr(self, name) for name in ("denoising_steps", "guidance", "layout_noise")}
        return replace(known, **{name: value for name, value in asked.items() if value is not None})


class World:
    """One generated place. The noise of step n is drawn from (seed, n): the same seed and actions make the same world."""

    def __init__(self, models: WorldModels, settings: WorldSettings | None = None, seed: int = 0) -> None:
        self.models = models
        self.settings = settings or WorldSettings()
        check_noise_level(self.settings.history_noise)
        self.maker = SectionMaker.of(models, self.settings.flow(models.flow))
        self._clear(seed)

    def _clear(self, seed: int) -> None:
        self.seed, self.steps = seed, 0
        self.where = Whereabouts.origin(1, self.models.device)
        """of the newest frame, in a world that begins at the origin, heading 0"""
        config = self.models.transformer.config
        self.memory = Memory(
            (config.latent_channels, config.latent_height, config.latent_width),
            len(config.action_sizes),
            self.models.descriptor.dim,
            self.settings.memory_mode,
            self.models.recall,
            self.models.device,
            seed,
            self.models.schedule.tail,
            self.models.odometer.config.witness_channels,
        )

    @property
    def section_length(self) -> int:
        """S: frames made by one step."""
        return self.models.schedule.section

    def reset(self, seed: int) -> UInt8[np.ndarray, "n frame_height frame_width 3"]:
        """Start anew at the opening that the seed picks; returns its frames, the last is what the player sees now."""
        openings = self.models.openings
        if openings is None:
            raise ValueError(
                "the checkpoint has no openings.safetensors to start a world from; run worldsim train model"
            )
        self._clear(seed)
        # Seeds that follow each other begin differently, until every opening has come up once.
        turn, place = divmod(seed, len(openings.latents))
        pick = np.random.default_rng(turn).permutation(len(openings.latents))[place]
        latents = openings.latents[pick].to(self.models.device)
        self.observe(latents, openings.actions[pick])
        return self._decode(latents)

    @torch.no_grad()
    def observe(
        self,
        latents: Float[Tensor, "n channel height width"],
        actions: Integer[Tensor, "n factor"],
        followed: Followed | None = None,
        true_poses: Float[Tensor, "n 3"] | None = None,
    ) -> None:
        """Append frames that the world did not make: an opening, or true history in evaluation.

        `followed` is the odometer's account of them as the world's first frames, if it has been made before. The
        oracle needs the true poses (x, y, heading in degrees); nothing else looks at them.
        """
        latents, actions = latents.to(self.models.device), actions.to(self.models.device).long()
        if len(self.memory):
            if followed is not None:
                raise ValueError(
                    f"the world has {len(self.memory)} frames already; `followed` is of the first ones"
                )
            for i in range(len(latents)):
                one = slice(i, i + 1)
                self._observe_next(
                    latents[one], actions[one], None if true_poses is None else true_poses[one]
                )
            return
        if followed is None:
            followed = self.models.odometer.follow(latents[None], actions[None])
        self.where = self._append(latents, actions, followed, true_poses)

    def _observe_next(
        self,
        latents: Float[Tensor, "1 channel height width"],
        actions: Int64[Tensor, "1 factor"],
        true_poses: Float[Tensor, "1 3"] | None,
    ) -> None:
        """One frame more."""
        before, known, _, _ = self.memory.recent(min(len(self.memory), ACTIONS))
        whole = pad_actions(torch.cat((known, actions))[None], ACTIONS + 1)
        seen = torch.cat((before[-1:].to(latents.dtype), latents))[None]
        followed, where = self.models.odometer.track(self.where, seen, whole)
        where, sighted = recognised([self.memory], self.maker, latents, where, 1)
        followed = followed.ended(where, sighted)
        self.where = self._append(latents, actions, followed, true_poses)

    def _append(
        self,
        latents: Float[Tensor, "n channel height width"],
        actions: Int64[Tensor, "n factor"],
        followed: Followed,
        true_poses: Float[Tensor, "n 3"] | None,
    ) -> Whereabouts:
        """Remember frames with all that later steps will ask of them; returns where the last was seen from."""
        known, keys = latents.to(self.models.dtype), None
        if self.memory.needs_query:
            keys = self.models.descriptor.keys(known).float().cpu().numpy()
        scans = torch.cat([self.models.odometer.scans(part) for part in known.split(CHUNK)])
        shift = self.memory.append(latents, actions, followed, keys, true_poses, scans)
        return followed.end().shifted(shift[None])

    def step(self, actions: Int64[np.ndarray, "section factor"]) -> Section:
        """Make the next section. ValueError if the actions are not (section_length, factors) within range.

        Also if the world has no frames yet: the model has never made one out of nothing.
        """
        if actions.shape[0] != self.section_length:
            raise ValueError(
                f"{actions.shape[0]} actions for a section of {self.section_length}; give one a frame"
            )
        self.models.action_space.validate(actions)
        if not len(self.memory):
            raise ValueError("the world has no frames to go on from; reset it, or let it observe some")
        return step_worlds([self], torch.from_numpy(np.ascontiguousarray(actions))[None])[0]

    def frame_u8(self, frame: int) -> UInt8[np.ndarray, "frame_height frame_width 3"]:
        """The frame of that number, decoded from memory."""
        return self._decode(self.memory.latents([frame]).float())[0]

    @torch.no_grad()
    def _decode(self, latents: Float[Tensor, "n channel height width"]) -> UInt8[np.ndarray, "n rows cols 3"]:
        return self.models.autoencoder.decode_frames(latents).cpu().numpy()

    def noise(self) -> Float[Tensor, "section channel height width"]:
        """The noise of this step, a function of (seed, step) alone, drawn on the CPU so that it is the same everywhere."""
        return self._noise(self.section_length, 0)

    def history_noise(self, frames: int) -> Float[Tensor, "{frames} channel height width"]:
        """The noise that this step's history is seen under, likewise."""
        return self._noise(frames, 1)

    def _noise(self, frames: int, purpose: int) -> Float[Tensor, "{frames} channel height width"]:
        entropy = (self.seed, self.steps, purpose) if purpose else (self.seed, self.steps)
        state = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        config = self.models.transformer.config
        shape = (frames, config.latent_channels, config.latent_height, config.latent_width)
        return torch.randn(shape, generator=torch.Generator().manual_seed(state))


@torch.no_grad()
def step_worlds(
    worlds: Sequence[World],
    actions: Integer[Tensor, "batch section factor"],
    true_poses: Float[Tensor, "batch section 3"] | None = None,
    ahead: Ahead | None = None,
) -> list[Section]:
    """One section for each of several worlds of the same model and memory mode, in one batch.

    `true_poses` (x, y, heading in degrees) are those of the recorded frames that an evaluation compares with; only
    worlds in oracle mode look at them (ValueError if they lack them). `ahead` is what is planned behind the section;
    None: nothing. ValueError for a model that makes sections from last to first.
    """
    models, maker = worlds[0].models, worlds[0].maker
    if models.schedule.coming:
        raise ValueError(
            f"schedule {models.schedule.text!r} makes what comes last first and cannot be played; use worldsim rollout"
        )
    clock = Clock(models.device)
    memories = [world.memory for world in worlds]
    recent = recent_of(memories, models)
    actions = actions.to(models.device).long()
    all_actions = torch.cat((recent.actions, actions), 1)
    where = joined([world.where for world in worlds])
    expected, where = foreseen(memories, maker, where, recent.latents[:, -1], all_actions, actions.shape[1])
    poses = expected.poses
    recalled, ranked = recall_for(memories, maker, recent, all_actions, poses, true_poses)
    history = registered(history_of(memories, models, recent, recalled, ranked, poses, ahead), maker)
    clock.lap("recall")
    latents = make_section(worlds, history, all_actions, clock.lap)
    sections = shown(maker, latents, recalled, clock.laps)
    clock.lap("decode")
    keep_section(worlds, latents, actions, expected, where, true_poses)
    clock.lap("append")
    return sections


@torch.no_grad()
def make_section(
    worlds: Sequence[World],
    history: History,
    actions: Int64[Tensor, "batch step factor"],
    lap: Callable[[str], None] = lambda _: None,
) -> Float[Tensor, "batch section channel height width"]:
    """Latents of every world's section after that history; `actions` end with the section's own. Nothing is kept."""
    maker = worlds[0].maker
    history, veil = _seen(worlds, history)
    pack = maker.pack(history, veil)
    lap("pack")
    cache = maker.encode(pack, history.sigma)
    lap("history")
    noise = torch.stack([world.noise() for world in worlds]).to(actions.device)
    latents = maker.sample(noise, actions, cache)
    lap("denoise")
    return latents


@torch.no_grad()
def keep_section(
    worlds: Sequence[World],
    latents: Float[Tensor, "batch section channel height width"],
    actions: Int64[Tensor, "batch section factor"],
    followed: Followed,
    where: Whereabouts,
    true_poses: Float[Tensor, "batch section 3"] | None,
) -> None:
    """Look at what was made, and remember it: every world is one section on.

    `followed` and `where` as it was foreseen: what a model has drawn is where it was told to draw it, unless recognised.
    """
    maker, memories = worlds[0].maker, [world.memory for world in worlds]
    where, sighted = recognised(memories, maker, latents[:, -1], where, actions.shape[1])
    followed = followed.ended(where, sighted)
    known, section, keys, scans = latents.flatten(0, 1).to(maker.models.dtype), latents.shape[1], None, None
    if worlds[0].memory.needs_query:
        keys = maker.keys(known).cpu().numpy()
    if maker.models.odometer.foresight is not None:
        scans = maker.scans(known)
    for i, world in enumerate(worlds):
        span = slice(i * section, (i + 1) * section)
        shift = world.memory.append(
            latents[i], actions[i], followed.part(i, section), None if keys is None else keys[span],
            None if true_poses is None else true_poses[i], None if scans is None else scans[span],
        )  # fmt: skip
        world.where = where.of(i).shifted(shift[None])
        world.steps += 1


def _seen(
    worlds: Sequence[World], history: History
) -> tuple[History, Float[Tensor, "batch frames channel height width"] | None]:
    """The history with the level of its noise, and the noise; None where it is seen clean.

    Once for each of `FlowSettings.history_levels`, in that order.
    """
    levels = worlds[0].maker.flow.history_levels(worlds[0].settings.history_noise)
    if not any(levels):
        return history, None
    noise = torch.stack([world.history_noise(history.frames) for world in worlds]).to(history.recent)
    return history.under(*levels), torch.cat([noise] * len(levels))
