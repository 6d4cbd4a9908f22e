"""Rolling a world model out over recorded actions, many starts at once, and scoring the frames it makes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from tqdm import tqdm

from models.flow import FlowSettings
from retrieval.whereabouts import Followed
from worldsim.checkpoint import WorldModels
from worldsim.errors import check_noise_level
from worldsim.evaluation import metrics
from worldsim.evaluation.held_out import EncodedEpisode, HeldOut
from worldsim.evaluation.lpips import Lpips
from worldsim.inverted import roll_out_inverted
from worldsim.planning import PlanSettings, roll_out_planned
from worldsim.recall import MemoryMode
from worldsim.section import Section
from worldsim.world import World, WorldSettings, step_worlds

SCORE_BATCH = 128
"""Frames scored at once: SSIM in double precision takes about 10 MB a frame of 128x96."""


@dataclass(frozen=True, kw_only=True)
class RolloutSettings:
    """How an evaluation's worlds are played, whatever their memory mode."""

    denoising_steps: int | None = None
    """Denoising steps a section; None takes what the checkpoint says."""
    guidance: float | None = None
    """Weight of history guidance; None takes what the checkpoint says."""
    layout_noise: float | None = None
    """Level of the noise that the model sees its history under while it decides the layout; None takes what the
    checkpoint says."""
    history_noise: float = 0.0
    """Level of the noise that the model sees its history under, and is told of."""
    plan: PlanSettings = field(default_factory=PlanSettings)
    """How ends are planned, where the schedule has frames of an end."""

    def __post_init__(self) -> None:
        check_noise_level(self.history_noise)

    def world(self, mode: MemoryMode) -> WorldSettings:
        """How the rollouts of a mode are played."""
        return WorldSettings(
            memory_mode=mode,
            denoising_steps=self.denoising_steps,
            guidance=self.guidance,
            layout_noise=self.layout_noise,
            history_noise=self.history_noise,
        )

    def identity_of(self, *names: str, **more: str) -> str:
        """Those settings and all that say how worlds are played, in words that differ where frames may."""
        played = "denoising_steps", "guidance", "layout_noise", "history_noise", "plan"
        return json.dumps({name: str(getattr(self, name)) for name in (*names, *played)} | more)

    @property
    def sampler(self) -> str:
        """For a page: how frames are drawn, once `told` what the checkpoint says."""
        drawn = self.world("off").flow(FlowSettings()).text
        return f"{drawn}, history noise {self.history_noise:g}" if self.history_noise else drawn


R = TypeVar("R", bound=RolloutSettings)


def told(settings: R, models: WorldModels) -> R:
    """The same with what the checkpoint says where nothing was asked for. ValueError if a value is out of range."""
    flow = settings.world("off").flow(models.flow)
    return replace(
        settings,
        denoising_steps=flow.denoising_steps,
        guidance=flow.guidance,
        layout_noise=flow.layout_noise,
    )


def noise_seed(seed: int, episode: int, step: int) -> int:
    """Seed of what is drawn at random from that step on; equal over memory modes and models."""
    return int(np.random.SeedSequence([seed, episode, step]).generate_state(1)[0])


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What one rollout begins from: true history, the actions to follow and a noise seed."""

    history: Float[Tensor, "past channel h w"]
    """Latents of frames 0 .. past-1: the world's memory."""
    history_actions: Int64[np.ndarray, "past factors"]
    """actions[t] led to frame t."""
    actions: Int64[np.ndarray, "time factors"]
    """The actions to roll out."""
    history_followed: Followed | None
    """The odometer's account of the history, a batch of one; None where it has not been made yet."""
    true_history_poses: Float[Tensor, "past 3"]
    """By the engine: only the oracle's recall goes by them."""
    true_coming_poses: Float[Tensor, "time 3"]
    """The same of the frames to be made."""
    seed: int
    """Seed of the world's noise; equal over memory modes."""

    @classmethod
    def of(
        cls, held_out: HeldOut, encoded: EncodedEpisode, episode: int, step: int, horizon: int, seed: int
    ) -> "Beginning":
        """All true frames before `step` as history, the recorded actions from there, a noise seed of its own."""
        actions = held_out.actions[episode]
        poses = torch.from_numpy(held_out.poses[episode][:, [0, 1, 3]])
        coming = slice(step, step + horizon)
        return cls(
            history=encoded.latents[:step],
            history_actions=actions[:step],
            actions=actions[coming],
            history_followed=encoded.followed.part(0, step),
            true_history_poses=poses[:step],
            true_coming_poses=poses[coming],
            seed=noise_seed(seed, episode, step),
        )

    def with_memory_of(self, other: "Beginning", recent: int) -> "Beginning":
        """The same with another world's frames in place of all but the `recent` newest, over and over if they are fewer."""
        old = max(0, len(self.history) - recent)
        foreign = other.history[torch.arange(old, device=other.history.device) % len(other.history)]
        return replace(self, history=torch.cat((foreign, self.history[old:])))

    def stopped(self, after: int) -> "Beginning":
        """The same with no key pressed after so many frames."""
        actions, poses = self.actions.copy(), self.true_coming_poses.clone()
        actions[after:] = 0
        poses[after:] = torch.cat((self.true_history_poses, poses[:after]))[-1]
        return replace(self, actions=actions, true_coming_poses=poses)


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Frames made and their latents, on the CPU, and for each step what memory recalled, best score first."""

    frames_u8: UInt8[Tensor, "time height width 3"]
    latents: Float[Tensor, "time channel h w"]
    recalled: tuple[tuple[int, ...], ...]
    """For each frame made the numbers of the frames recalled for it (frame 0 is the first of history)."""

    def since(self, first: int) -> "Rollout":
        """Without the frames before that one."""
        return Rollout(
            frames_u8=self.frames_u8[first:], latents=self.latents[first:], recalled=self.recalled[first:]
        )

    def frame(
        self, truth_u8: UInt8[Tensor, "past height width 3"], number: int, step: int
    ) -> UInt8[Tensor, "height width 3"]:
        """Frame `number` of the world: a true one before `step`, where the rollout began, else one it made."""
        return truth_u8[number] if number < step else self.frames_u8[number - step]


def check_horizon(horizon: int, section: int) -> None:
    """ValueError unless `horizon` frames are a whole number of sections."""
    if horizon < 1 or horizon % section:
        near = max(section, horizon // section * section)
        raise ValueError(f"{horizon} frames are no multiple of the model's section of {section}; use {near}")


def roll_out(
    models: WorldModels,
    beginnings: Sequence[Beginning],
    settings: WorldSettings,
    plan: PlanSettings | None = None,
    progress: tqdm | None = None,
) -> list[Rollout]:
    """Make the frames of every beginning, many worlds in a batch; the progress counts frames made.

    In the order that the schedule asks for: forwards, with planned ends, or from the last frame to the first.

    Raises:
        ValueError: the model made values that are not numbers.
    """
    worlds = [_begun(models, each, settings) for each in beginnings]
    actions = torch.from_numpy(np.stack([each.actions for each in beginnings]))
    oracle = settings.memory_mode == "oracle"
    coming = torch.stack([each.true_coming_poses for each in beginnings]) if oracle else None
    frames: list[list[np.ndarray]] = [[] for _ in worlds]
    latents: list[list[Tensor]] = [[] for _ in worlds]
    recalled: list[list[tuple[int, ...]]] = [[] for _ in worlds]
    ends: list[list[Section]] = []
    for sections in _sections(worlds, actions, coming, plan or PlanSettings(), progress):
        ends = [*ends[:1], sections]
        for index, section in enumerate(sections):
            frames[index].append(section.frames_u8)
            latents[index].append(section.latents.half())
            recalled[index] += [_best_first(section)] * len(section.frames_u8)
    if not all(bool(section.latents.isfinite().all()) for sections in ends for section in sections):
        raise ValueError(
            f"the model made values that are not numbers within {actions.shape[1]} frames (memory "
            f"{settings.memory_mode!r}); the checkpoint is damaged or its training diverged: take an earlier one"
        )
    return [
        Rollout(
            frames_u8=torch.from_numpy(np.concatenate(made)),
            latents=torch.cat(kept).float().cpu(),
            recalled=tuple(chosen),
        )
        for made, kept, chosen in zip(frames, latents, recalled, strict=True)
    ]


def _begun(models: WorldModels, beginning: Beginning, settings: WorldSettings) -> World:
    """A world that has seen the history; inverted sampling begins at its newest frames alone."""
    world = World(models, settings, seed=beginning.seed)
    actions = torch.from_numpy(beginning.history_actions)
    if models.schedule.coming:
        newest = slice(len(actions) - models.schedule.first_frames, None)
        world.observe(beginning.history[newest], actions[newest])
        return world
    true_poses = beginning.true_history_poses if settings.memory_mode == "oracle" else None
    world.observe(beginning.history, actions, beginning.history_followed, true_poses)
    return world


def _sections(
    worlds: Sequence[World],
    actions: Int64[Tensor, "batch time factor"],
    true_poses: Float[Tensor, "batch time 3"] | None,
    plan: PlanSettings,
    progress: tqdm | None,
) -> Iterator[list[Section]]:
    """All worlds' sections in the order of time."""
    schedule = worlds[0].models.schedule
    if schedule.coming:
        yield from roll_out_inverted(worlds, actions, progress)
        return
    if schedule.last:
        made = roll_out_planned(worlds, actions, plan, true_poses)
    else:
        parts = [slice(at, at + schedule.section) for at in range(0, actions.shape[1], schedule.section)]
        made = (
            step_worlds(worlds, actions[:, part], None if true_poses is None else true_poses[:, part])
            for part in parts
        )
    for sections in made:
        if progress is not None:
            progress.update(len(worlds) * schedule.section)
        yield sections


def _best_first(section: Section) -> tuple[int, ...]:
    return tuple(int(each.frame) for each in sorted(section.recalled, key=lambda each: -each.score))


def compare(
    made_u8: UInt8[Tensor, "batch height width 3"],
    truth_u8: UInt8[Tensor, "batch height width 3"],
    device: torch.device,
    lpips: Lpips | None = None,
) -> dict[str, Float[np.ndarray, " batch"]]:
    """PSNR in dB, SSIM, squared error, sharpness of both, LPIPS if given: one figure a frame under each name."""
    parts: dict[str, list[Tensor]] = {}
    for made, truth in zip(made_u8.split(SCORE_BATCH), truth_u8.split(SCORE_BATCH), strict=True):
        made, truth = made.to(device), truth.to(device)
        figures = {
            "psnr": metrics.psnr(made, truth),
            "ssim": metrics.ssim(made, truth),
            "mse": metrics.mean_squared_error(made, truth),
            "sharpness": metrics.sharpness(made),
            "truth_sharpness": metrics.sharpness(truth),
        }
        if lpips is not None:
            figures["lpips"] = lpips(made, truth)
        for name, values in figures.items():
            parts.setdefault(name, []).append(values)
    return {name: torch.cat(values).double().cpu().numpy() for name, values in parts.items()}


def describe(
    frames_u8: UInt8[Tensor, "time height width 3"], device: torch.device
) -> dict[str, Float[np.ndarray, " _"]]:
    """Sharpness, brightness, contrast, colourfulness of each frame and motion between neighbours (one fewer)."""
    frames = frames_u8.to(device)
    figures = {
        "sharpness": metrics.sharpness(frames),
        "brightness": metrics.brightness(frames),
        "contrast": metrics.contrast(frames),
        "colourfulness": metrics.colourfulness(frames),
        "motion": metrics.motion(frames[1:], frames[:-1]),
    }
    return {name: values.double().cpu().numpy() for name, values in figures.items()}
