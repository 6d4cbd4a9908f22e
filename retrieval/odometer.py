"""Path integration: where every frame was seen from, told by actions and by the frames themselves; no true poses."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from torch.nn import functional

from retrieval.descriptor import ResidualBlock
from retrieval.landmarks import CHANGED_DOUBT, STEP_DOUBT, SURE, Landmarks, Trail, recognition
from retrieval.motion import TURN_STEPS, Motion, joint_rows, offset_from, turned
from retrieval.registration import Registration
from retrieval.whereabouts import Followed, Whereabouts, joined

ACTIONS = TURN_STEPS + 1
"""actions that a step's move depends on, its own included"""
MOVE_SCALE = 32.0
"""map units: moves are of this size, and networks like numbers of size one"""
STILL = 0.5
"""map units: a move shorter than that leaves no doubt"""

CHUNK = 64
"""frames whose features are made at once"""


@dataclass(frozen=True, kw_only=True)
class OdometerSettings:
    channels: int
    """Channels of a latent."""
    height: int = 12
    """Rows of a latent; even."""
    width: int = 16
    """Columns of a latent; even."""
    hidden: int = 32
    """Channels of the convolutions; a multiple of 8."""
    head_width: int = 96
    registration_hidden: int = 32
    """Channels of the network that registers recalled views, a multiple of 8; 0 leaves it out."""
    view_deg: float = 90.0
    """How wide the view is."""


class Odometer(ModelMixin, ConfigMixin):
    """The move of every step: what the actions tell (`Motion`), corrected by what is seen.

    Turns are exact. Free moves are too; a wall in the way is seen, ahead of the step in the frame before it, or
    afterwards in how the view has changed. Everything is float32: places add up over thousands of steps.
    """

    @register_to_config
    def __init__(
        self,
        channels: int,
        motion: dict[str, Any],
        height: int = 12,
        width: int = 16,
        hidden: int = 32,
        head_width: int = 96,
        registration_hidden: int = 0,
        view_deg: float = 90.0,
    ) -> None:
        super().__init__()
        if height % 2 or width % 2 or hidden % 8 or registration_hidden % 8:
            raise ValueError(
                f"height {height}, width {width} must be even, hidden {hidden} and registration_hidden "
                f"{registration_hidden} multiples of 8"
            )
        self.motion = Motion.of_json(motion)
        joint = len(self.motion.thrust)
        self.stem = nn.Conv2d(2 * channels + 1, hidden, 4, stride=2, padding=1)
        self.blocks = nn.Sequential(ResidualBlock(hidden), ResidualBlock(hidden))
        self.squeeze = nn.Conv2d(hidden, 8, 1)
        self.project = nn.Linear(8 * (height // 2) * (width // 2), head_width)
        self.told = nn.Linear(2, head_width)
        self.pressed = nn.Embedding(joint, head_width)
        self.mlp = nn.Sequential(
            nn.SiLU(), nn.Linear(head_width, head_width), nn.SiLU(), nn.Linear(head_width, 3)
        )
        self.registration = (
            Registration(channels, height, width, registration_hidden, head_width, view_deg)
            if registration_hidden
            else None
        )

    @classmethod
    def of(cls, settings: OdometerSettings, motion: Motion) -> "Odometer":
        return cls(motion=asdict(motion), **asdict(settings))

    def features(
        self,
        before: Float[Tensor, "batch channel height width"],
        after: Float[Tensor, "batch channel height width"],
        seen: Bool[Tensor, " batch"],
    ) -> Float[Tensor, "batch head_width"]:
        """What two neighbouring frames tell of the move between them; `after` is looked at only where it is `seen`."""
        here = seen[:, None, None, None].to(self.dtype)
        flag = here.expand(-1, 1, *before.shape[2:])
        x = self.stem(torch.cat((before.to(self.dtype), after.to(self.dtype) * here, flag), 1))
        return self.project(self.squeeze(functional.silu(self.blocks(x))).flatten(1))

    def judge(
        self,
        features: Float[Tensor, "batch head_width"],
        free: Float[Tensor, "batch 2"],
        action: Integer[Tensor, "batch factor"],
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch 2"]]:
        """Whether something changes the move that the actions tell (a logit), and the move if so.

        Moves are forward and left of the view before the step.
        """
        told = self.told((free / MOVE_SCALE).to(self.dtype))
        x = self.mlp(features + told + self.pressed(joint_rows(action, self.motion.sizes))).float()
        return x[:, 0], free + x[:, 1:] * MOVE_SCALE

    def advance(
        self,
        where: Whereabouts,
        features: Float[Tensor, "batch head_width"],
        actions: Integer[Tensor, "batch step factor"],
    ) -> Whereabouts:
        """One step on; `actions` are the newest, at least ACTIONS of them, the step's own last."""
        free, heading = self.told_move(where, actions)
        view = where.pose[:, 2]
        ahead = turned(free, -view)
        logit, made = self.judge(features, ahead, actions[:, -1])
        # Exactly as told unless something is more likely than not to have changed it.
        changed = logit > 0
        move = turned(torch.where(changed[:, None], made, ahead), view)
        fresh = (STEP_DOUBT + (CHANGED_DOUBT - STEP_DOUBT) * changed) * (free.norm(dim=1) > STILL)
        pose = torch.cat((where.pose[:, :2] + move, heading[:, None]), 1)
        return Whereabouts(pose=pose, move=move, doubt=where.doubt + fresh[:, None])

    @torch.no_grad()
    def expect(
        self,
        where: Whereabouts,
        newest: Float[Tensor, "batch channel height width"],
        actions: Integer[Tensor, "batch step factor"],
        section: int,
    ) -> Float[Tensor, "batch {section} 3"]:
        """Poses of the section's frames before they are made; `actions` end with the section's own.

        What stands in the way is seen in the newest frame for the first step; later ones go as told.
        """
        unseen = torch.zeros(len(newest), dtype=torch.bool, device=newest.device)
        window = actions[:, : actions.shape[1] - section + 1]
        where = self.advance(where, self.features(newest, newest, unseen), window)
        poses = [where.pose]
        for i in range(1, section):
            move, heading = self.told_move(where, actions[:, : window.shape[1] + i])
            pose = torch.cat((where.pose[:, :2] + move, heading[:, None]), 1)
            where = Whereabouts(pose=pose, move=move, doubt=where.doubt)
            poses.append(where.pose)
        return torch.stack(poses, 1)

    def told_move(
        self, where: Whereabouts, actions: Integer[Tensor, "batch step factor"]
    ) -> tuple[Float[Tensor, "batch 2"], Float[Tensor, " batch"]]:
        """The next step's move along x and y if nothing stands in the way, and its heading."""
        turns = self.motion.turns(actions).cumsum(1)
        headings = where.pose[:, 2:] + turns - turns[:, -2:-1]
        free = self.motion.carry * where.move + self.motion.free_moves(actions, headings)[:, -1]
        return free, headings[:, -1]

    @torch.no_grad()
    def track(
        self,
        where: Whereabouts,
        latents: Float[Tensor, "batch time channel height width"],
        actions: Integer[Tensor, "batch known factor"],
        trail: Trail | None = None,
    ) -> tuple[Followed, Whereabouts]:
        """Follow frames on from the first of `latents`, which `where` tells of; `actions` end with the last one's.

        Returns what is known of every further frame, and where it all ends. There must be ACTIONS actions or more
        before the first further frame's own: pad them with "none". With a `trail` of all frames before, loops are closed.
        """
        batch, time = latents.shape[:2]
        known = actions[:, actions.shape[1] - (time - 1) - (ACTIONS - 1) :]
        steps = [Followed.none(where)]
        for first in range(1, time, CHUNK):
            part = slice(first, min(first + CHUNK, time))
            before = latents[:, first - 1 : part.stop - 1].flatten(0, 1)
            after = latents[:, part].flatten(0, 1)
            nothing = torch.zeros(len(after), dtype=torch.bool, device=after.device)
            seen = self.features(before, after, ~nothing).unflatten(0, (batch, -1))
            unseen = self.features(before, after, nothing).unflatten(0, (batch, -1))
            for i, t in enumerate(range(part.start, part.stop)):
                window = known[:, t - 1 : t - 1 + ACTIONS]
                expected = self.advance(where, unseen[:, i], window).pose
                where = self.advance(where, seen[:, i], window)
                if trail is not None:
                    where = self.recognised(where, latents[:, t], trail.landmarks(where.pose))
                    trail.add(where)
                steps.append(Followed.one(where, expected))
        return joined(steps, 1), where

    def follow(
        self,
        latents: Float[Tensor, "batch time channel height width"],
        actions: Integer[Tensor, "batch time factor"],
    ) -> Followed:
        """`track` from the beginning of worlds, closing loops: what is known of every frame.

        The first frame is where a world begins, and is expected there.
        """
        origin, trail = Whereabouts.origin(len(latents), latents.device), Trail(latents)
        trail.add(origin)
        whole = functional.pad(actions.long(), (0, 0, ACTIONS - 1, 0))
        later, _ = self.track(origin, latents, whole, trail)
        return joined((Followed.one(origin, origin.pose), later), 1)

    @torch.no_grad()
    def recognised(
        self,
        where: Whereabouts,
        newest: Float[Tensor, "batch channel height width"],
        landmarks: Landmarks | None,
    ) -> Whereabouts:
        """Where players are who recognise what they have seen before (`retrieval.landmarks`)."""
        if self.registration is None or landmarks is None:
            return where
        same, seen = self._compared(newest, where.pose, landmarks.latents, landmarks.poses)
        distance = (seen - where.pose[:, None, :2]).norm(dim=-1)
        off = landmarks.poses[..., :2] - seen
        sure = (same > SURE) & landmarks.present
        return where.moved(*recognition(off, distance, landmarks.doubts, where.doubt, sure))

    @torch.no_grad()
    def registered(
        self,
        newest: Float[Tensor, "batch channel height width"],
        newest_pose: Float[Tensor, "batch 3"],
        recalled: Float[Tensor, "batch n channel height width"],
        recalled_poses: Float[Tensor, "batch n 3"],
    ) -> Float[Tensor, "batch n 3"]:
        """Poses of recalled frames, their places corrected by how their views differ from the newest one.

        A gate keeps frames of other places exactly where they were told to be: nothing is seen of their offset.
        """
        if self.registration is None or not recalled.shape[1]:
            return recalled_poses
        same, seen = self._compared(newest, newest_pose, recalled, recalled_poses)
        place = torch.where(same[..., None] > 0, seen, recalled_poses[..., :2])
        return torch.cat((place, recalled_poses[..., 2:]), -1)

    def _compared(
        self,
        newest: Float[Tensor, "batch channel height width"],
        newest_pose: Float[Tensor, "batch 3"],
        others: Float[Tensor, "batch n channel height width"],
        other_poses: Float[Tensor, "batch n 3"],
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n 2"]]:
        """Whether each shows the newest one's place (a logit), and where it was seen from if so."""
        assert self.registration is not None
        count = others.shape[1]
        here = newest_pose[:, None].expand(-1, count, -1).flatten(0, 1)
        there = other_poses.flatten(0, 1)
        relative = torch.cat((offset_from(there, here), there[:, 2:] - here[:, 2:]), 1)
        views = newest[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1).to(self.dtype)
        same, found = self.registration(views, others.flatten(0, 1).to(self.dtype), relative)
        seen = here[:, :2] + turned(found, here[:, 2])
        return same.unflatten(0, (-1, count)), seen.unflatten(0, (-1, count))
