"""Training on the model's own frames: histories that the model has made itself for a few steps.

At play every history is the model's own. A model that has only seen true histories drifts, because its first small
error is something it was never shown. Here part of each batch continues recorded episodes with frames that the model
made (without gradient) while the target stays the true next frame: it learns to pull its own errors back to the truth
(scheduled sampling, Bengio et al. 2015; dataset aggregation, Ross et al. 2011). Some of these histories are held to the
truth, see `held.py`. Where own frames are seen from is what the odometer foresees of them, as at play but for the
settling of places and for walls, of which the recent frames alone tell: told poses from the true frames would be better
than any that play has.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.flow import FlowSettings
from models.packer import pad_actions
from retrieval.foresight import Witnesses
from retrieval.landmarks import YOUNGEST, Landmarks, nearest
from retrieval.motion import traced_back
from retrieval.odometer import ACTIONS, Odometer
from retrieval.whereabouts import Followed, Whereabouts
from worldsim.errors import check_at_least
from worldsim.training.covisibility import coverage
from worldsim.training.data import LatentEpisodes
from worldsim.training.held import HeldHistories
from worldsim.training.moments import Moments, Pasts, recent_actions, recent_latents
from worldsim.training.recalling import EpisodeMarks, Picks

BOUND = 12.0
"""Own latents are kept within it; true ones (deviation 1) reach 9. What a model makes that has hardly begun to
learn would grow from step to step, and one such history outweigh a batch."""


@dataclass(frozen=True, kw_only=True)
class SelfRolloutSettings:
    """How much of training runs on the model's own frames."""

    share: float = 0.5
    """part of the batch"""
    after_steps: int = 2000
    """steps on true histories alone before it begins"""
    length: int = 24
    """own steps after which all histories start anew from the truth; states are saved at multiples of it,
    except at Ctrl-C"""
    known: float = 0.7
    """a target counts if recalled or recent true frames show that much of it: what the model has made up elsewhere the
    truth denies, and a model that learns to doubt what it makes up draws it anew with every frame"""
    held: float = 0.5
    """part of the own histories that are held to the truth: every frame is drawn from the true one under noise (SDEdit,
    Meng et al. 2022), so that they show the true place in the model's hand, and all their targets count"""
    held_noise: float = 0.5
    """least level of that noise; each history has one of the denoising steps' levels, below 1"""
    shift: float | None = None
    """of the noise levels that own frames are drawn with; None takes play's"""
    layout_noise: float | None = None
    """of the history while their layout is decided; None takes play's"""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "length")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share {self.share} of the batch on own frames is not within 0..1")
        if not 0 <= self.held <= 1:
            raise ValueError(
                f"the part {self.held} of own frames that is held to the truth is not within 0..1"
            )
        if not 0 <= self.held_noise < 1:
            raise ValueError(f"noise {self.held_noise} of held frames is no noise level from 0 to below 1")
        if not 0 <= self.known <= 1:
            raise ValueError(f"the part {self.known} of a target that must be known is not within 0..1")
        if self.shift is not None and self.shift <= 0:
            raise ValueError(
                f"shift {self.shift} of own frames is not above 0; give one above it, or None for play's"
            )
        if self.layout_noise is not None and not 0 <= self.layout_noise < 1:
            raise ValueError(f"layout noise {self.layout_noise} of own frames is not from 0 to below 1")

    def flow(self, play: FlowSettings) -> FlowSettings:
        """How own frames are drawn where the world is played so."""
        asked: dict[str, Any] = {"shift": self.shift, "layout_noise": self.layout_noise}
        return replace(play, **{name: value for name, value in asked.items() if value is not None})

    def begins(self, flow: FlowSettings) -> list[int]:
        """Denoising steps of `flow` that held histories may begin with."""
        levels = flow.scheduler().sigmas[1:-1].tolist()
        found = [i for i, level in enumerate(levels, 1) if level >= self.held_noise]
        if not found and self.share and self.held:
            raise ValueError(
                f"none of the noise levels {[round(level, 2) for level in levels]} is {self.held_noise} or more: lower "
                "--own-frames.held-noise, or leave it out with --own-frames.held 0"
            )
        return found


class SelfRollout:
    """A set of histories that the model itself carries on, one section a training step.

    All begin at the same training step, so that a training resumed at such a step repeats itself exactly.
    """

    def __init__(
        self,
        episodes: LatentEpisodes,
        marks: EpisodeMarks,
        odometer: Odometer,
        batch: int,
        reach: int,
        section: int,
        length: int,
        generator: torch.Generator,
        held: int = 0,
        begins: Sequence[int] = (),
    ) -> None:
        """Of the `batch`, `held` are drawn from the truth at one of the denoising steps `begins`."""
        self.episodes, self.marks, self.odometer, self.section = episodes, marks, odometer, section
        self.moments = random_moments(episodes, batch, section * length, generator)
        self.recent, self.present = recent_latents(episodes.latents, self.moments, reach)
        self.scans = self._scanned(self.recent)
        rows, numbers = self.moments.episode[:, None], self.moments.frames(-reach, -1).clamp(min=0)
        self.headings, self.moves = marks.poses[rows, numbers, 2], marks.moves[rows, numbers]
        self.where = marks.at(self.moments.episode, numbers[:, -1])
        room = torch.zeros(
            batch, section * length, *self.recent.shape[2:], dtype=torch.float16, device=self.recent.device
        )
        self.held = HeldHistories.draw(held, begins, self.moments.time, room, generator)
        self.poses = traced_back(self.where.pose, self.moves, self.headings)

    def pasts(self) -> Pasts:
        """As the next step of training finds them."""
        expected = self._foreseen()[0].poses
        gap = torch.zeros_like(self.moments.time)
        return Pasts(self.moments, self.recent, self.present, self.poses, expected, gap)

    def _foreseen(self) -> tuple[Followed, Whereabouts]:
        """Where the coming section will be seen from; of walls beside the newest view the recent frames tell."""
        actions, witnesses, odometer = self._actions(), None, self.odometer
        if odometer.foresight is not None:
            place = odometer.aim(self.where, actions[:, : actions.shape[1] - self.section + 1])
            view_deg = odometer.config.view_deg
            witnesses = Witnesses.among(place, self.scans, self.poses, self.present, view_deg)
        return odometer.expect(self.where, self.recent[:, -1], actions, self.section, witnesses)

    def known(self, picks: Picks) -> Float[Tensor, " batch"]:
        """How much of the target the recalled frames show or, of the recent ones, those that are still true."""
        reach, moments = self.recent.shape[1], self.moments
        recent = moments.frames(-reach, -1)
        true = (recent >= 0) & (recent < moments.time[:, None] - self.held.made)
        return coverage(
            self.episodes, moments.episode, moments.time + self.section - 1,
            torch.cat((picks.frames, recent.clamp(min=0)), 1), torch.cat((picks.present, true), 1),
        )  # fmt: skip

    def _actions(self) -> Int[Tensor, "batch step factor"]:
        """The newest actions, the coming section's last, as many as the odometer looks at."""
        actions = recent_actions(self.episodes.actions, self.moments, ACTIONS, self.section)
        return pad_actions(actions, ACTIONS + self.section)

    def advance(self, made: Float[Tensor, "batch section channel height width"]) -> None:
        """Append a section that the model made, as at play."""
        made = made.float().clamp(-BOUND, BOUND)
        followed, where = self._foreseen()
        self.where, _ = self.odometer.recognised(where, made[:, -1], self._landmarks(where.pose))
        self.headings = torch.cat((self.headings, followed.poses[..., 2]), 1)[:, self.section :]
        self.moves = torch.cat((self.moves, followed.moves), 1)[:, self.section :]
        self.recent = torch.cat((self.recent, made), 1)[:, self.section :]
        self.scans = torch.cat((self.scans, self._scanned(made)), 1)[:, self.section :]
        exists = torch.ones(made.shape[:2], dtype=torch.bool, device=made.device)
        self.present = torch.cat((self.present, exists), 1)[:, self.section :]
        self.moments = Moments(episode=self.moments.episode, time=self.moments.time + self.section)
        self.poses = traced_back(self.where.pose, self.moves, self.headings)
        self.held.add(made, self.poses[:, -self.section :])

    @torch.no_grad()
    def _scanned(
        self, latents: Float[Tensor, "batch time channel height width"]
    ) -> Float[Tensor, "batch time scanned width"]:
        """What these frames will tell as witnesses."""
        return self.odometer.scans(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])

    def _landmarks(self, pose: Float[Tensor, "batch 3"]) -> Landmarks:
        """Frames that the player may recognise in the section just made: true ones, but for those of held histories."""
        rows, newest = self.moments.episode, self.moments.time + self.section - 1
        ages = newest[:, None] - torch.arange(self.marks.places.shape[1], device=newest.device)
        frames, found = nearest(self.marks.places[rows], pose, ages >= YOUNGEST)
        rows = rows[:, None]
        latents, poses = self.held.remembered(
            frames, self.episodes.latents[rows, frames].float(), self.marks.poses[rows, frames]
        )
        return Landmarks(
            latents=latents,
            frames=frames,
            poses=poses,
            present=found,
            doubts=self.marks.doubts[rows, frames, 1],
        )


def random_moments(episodes: LatentEpisodes, batch: int, section: int, generator: torch.Generator) -> Moments:
    """Moments drawn evenly from all episodes, from the second frame on, with `section` true frames ahead."""
    device = generator.device
    episode = torch.randint(len(episodes), (batch,), generator=generator, device=device)
    room: Int[Tensor, " batch"] = episodes.lengths[episode] - section
    if episodes.shortest <= section:
        raise ValueError(f"an episode has {episodes.shortest} frames, training needs more than {section}")
    uniform = torch.rand(batch, generator=generator, device=device)
    return Moments(episode=episode, time=(1 + uniform * room).long().clamp(max=room))
