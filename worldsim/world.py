"""A world in play: one step an input, made from its memory, its actions and its seeds and nothing else."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Integer, UInt8
from torch import Tensor

from models.history import History
from retrieval.descriptor import LearnedDescriptor, PooledDescriptor
from worldsim.checkpoint import WorldModels
from worldsim.memory import Memory, Recalled
from worldsim.recall import MemoryMode, make_queries
from worldsim.section_maker import SectionMaker


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """How a world is played; None takes what the checkpoint says."""

    memory_mode: MemoryMode = "hybrid"
    """off, random, cosine, time, hybrid, or oracle (evaluation only: looks at the true coming view)"""
    denoising_steps: int | None = None
    """Euler steps a section; fewer are faster"""


@dataclass(frozen=True)
class Section:
    """What one input step made."""

    frames_u8: UInt8[np.ndarray, "section frame_height frame_width 3"]
    latents: Float[Tensor, "section channel height width"]
    recalled: tuple[Recalled, ...]
    timings_s: dict[str, float]
    """seconds spent on recall, pack, history, denoise, decode and append, for the whole batch of worlds"""


class World:
    """One generated place. The noise of step n is drawn from (seed, n): the same seed and actions make the same world."""

    def __init__(self, models: WorldModels, settings: WorldSettings | None = None, seed: int = 0) -> None:
        self.models = models
        self.settings = settings or WorldSettings()
        steps = self.settings.denoising_steps
        if steps is not None and steps < 1:
            raise ValueError(f"{steps} denoising steps; use at least 1")
        self.flow = models.flow if steps is None else replace(models.flow, denoising_steps=steps)
        self.maker = SectionMaker(models, self.flow)
        self._clear(seed)

    def _clear(self, seed: int) -> None:
        self.seed, self.steps = seed, 0
        config = self.models.transformer.config
        self.memory = Memory(
            (config.latent_channels, config.latent_height, config.latent_width),
            len(config.action_sizes),
            self._key_model.dim,
            self.settings.memory_mode,
            self.models.recall,
            self.models.device,
            seed,
        )

    @property
    def _key_model(self) -> PooledDescriptor | LearnedDescriptor:
        """The oracle knows the true coming view, so it compares views themselves, not predictions of them."""
        return self.models.pooled if self.settings.memory_mode == "oracle" else self.models.descriptor

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
        pick = np.random.default_rng(seed).integers(len(openings.latents))
        latents = openings.latents[pick].to(self.models.device)
        self.observe(latents, openings.actions[pick])
        return self._decode(latents)

    @torch.no_grad()
    def observe(
        self, latents: Float[Tensor, "n channel height width"], actions: Integer[Tensor, "n factor"]
    ) -> None:
        """Append frames that the world did not make: an opening, or true history in evaluation."""
        latents = latents.to(self.models.device)
        self.memory.append(latents, actions.long(), self.keys(latents))

    @torch.no_grad()
    def keys(self, latents: Float[Tensor, "n channel height width"]) -> Float32[np.ndarray, "n dim"] | None:
        """Descriptor keys of latents; None where this world's memory looks at none."""
        if self.settings.memory_mode in ("off", "random"):
            return None
        return self._key_model.keys(latents.to(self.models.dtype)).float().cpu().numpy()

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
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence((self.seed, self.steps)).generate_state(1)[0])
        )
        config = self.models.transformer.config
        shape = (self.section_length, config.latent_channels, config.latent_height, config.latent_width)
        return torch.randn(shape, generator=generator)


class _Clock:
    """Laps of one step; waits for the device, or time would be charged to whoever waits first."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._last = device, time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


@torch.no_grad()
def step_worlds(
    worlds: Sequence[World],
    actions: Integer[Tensor, "batch section factor"],
    coming: Float[Tensor, "batch section channel height width"] | None = None,
) -> list[Section]:
    """One section for each of several worlds of the same model and memory mode, in one batch.

    `coming` holds the true coming latents; only worlds in oracle mode look at it (ValueError if they lack it).
    """
    models, maker = worlds[0].models, worlds[0].maker
    clock = _Clock(models.device)
    recent, recent_actions, present = _recent(worlds)
    actions = actions.to(models.device).long()
    all_actions = torch.cat((recent_actions, actions), 1)
    recalled = _recall(worlds, recent, present, all_actions, coming)
    clock.lap("recall")
    history = _history(worlds, recent, recent_actions, present, recalled)
    pack = maker.pack(history)
    clock.lap("pack")
    cache = maker.encode(pack, history.sigma)
    clock.lap("history")
    noise = torch.stack([world.noise() for world in worlds]).to(models.device)
    latents = maker.sample(noise, all_actions, cache)
    clock.lap("denoise")
    frames = (
        models.autoencoder.decode_frames(latents.flatten(0, 1)).unflatten(0, latents.shape[:2]).cpu().numpy()
    )
    clock.lap("decode")
    keys = worlds[0].keys(latents.flatten(0, 1))
    for i, world in enumerate(worlds):
        own = None if keys is None else keys[i * world.section_length : (i + 1) * world.section_length]
        world.memory.append(latents[i], actions[i], own)
        world.steps += 1
    clock.lap("append")
    return [
        Section(frames_u8=frames[i], latents=latents[i], recalled=tuple(recalled[i]), timings_s=clock.laps)
        for i in range(len(worlds))
    ]


def _recent(worlds: Sequence[World]) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, actions and presence of every world's recent frames, `(batch, recent, …)`."""
    count = worlds[0].models.schedule.recent_frames
    columns = zip(*(world.memory.recent(count) for world in worlds), strict=True)
    latents, actions, present = (torch.stack(column) for column in columns)
    return latents.to(worlds[0].models.dtype), actions, present


def _recall(
    worlds: Sequence[World], recent: Tensor, present: Tensor, actions: Tensor, coming: Tensor | None
) -> list[list[Recalled]]:
    models, schedule = worlds[0].models, worlds[0].models.schedule
    queries = None
    if any(world.settings.memory_mode == "oracle" for world in worlds):
        if coming is None:
            raise ValueError("memory mode 'oracle' needs the true coming latents; it is for evaluation only")
        queries = models.pooled.keys(coming[:, -1].to(models.device)).float().cpu().numpy()
    elif worlds[0].memory.needs_query:
        queries = (
            make_queries(models.descriptor, recent, present, actions, schedule.section).float().cpu().numpy()
        )
    return [
        world.memory.recall(
            None if queries is None else queries[i], schedule.recalled.frames, schedule.recent_frames
        )
        for i, world in enumerate(worlds)
    ]


def _history(
    worlds: Sequence[World], recent: Tensor, actions: Tensor, present: Tensor, recalled: list[list[Recalled]]
) -> History:
    slots = worlds[0].models.schedule.recalled.frames
    latents = torch.zeros(len(worlds), slots, *recent.shape[2:], dtype=recent.dtype, device=recent.device)
    ages = torch.zeros(len(worlds), slots, dtype=torch.int64)
    filled = torch.zeros(len(worlds), slots, dtype=torch.bool)
    for i, (world, picks) in enumerate(zip(worlds, recalled, strict=True)):
        if picks:
            latents[i, : len(picks)] = world.memory.latents([pick.frame for pick in picks]).to(latents.dtype)
            ages[i, : len(picks)] = torch.tensor([pick.age for pick in picks])
            filled[i, : len(picks)] = True
    return History(
        recent=recent,
        recent_present=present,
        recent_actions=actions,
        recalled=latents,
        recalled_present=filled.to(recent.device),
        recalled_ages=ages.to(recent.device),
        sigma=torch.zeros(len(worlds), device=recent.device),
    )
