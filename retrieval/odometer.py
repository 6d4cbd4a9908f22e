"""Path integration: where every frame was seen from, told by actions and by the frames themselves; no true poses."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional

from retrieval.foresight import Foresight, Witnesses, foremost
from retrieval.landmarks import CAUTION, STEP_DOUBT, SURE, Landmarks, Trail, recognition
from retrieval.motion import TURN_STEPS, Motion, directions, offset_from, turned
from retrieval.offset import MOVE_SCALE, OFFSET_SCALE, Offset, OffsetHead
from retrieval.two_views import TwoViews
from retrieval.whereabouts import LANDMARKS, Followed, Sightings, Whereabouts, joined

ACTIONS = TURN_STEPS + 1
"""actions that a step's move depends on, its own included"""
CHUNK = 64
"""frames whose features are made at once"""
STOPPED = 1.0
"""logit from which on a step counts as changed by what stands in its way (training log, entry 25)"""


@dataclass(frozen=True, kw_only=True)
class OdometerSettings:
    channels: int
    """Channels of a latent."""
    height: int = 12
    """Rows of a latent; even."""
    width: int = 16
    """Columns of a latent; even."""
    fine: int = 32
    """Channels of the convolutions over whole latents; a multiple of 8."""
    coarse: int = 48
    """Channels over every second row and column; a multiple of 8."""
    head_width: int = 96
    view_deg: float = 90.0
    """How wide the view is."""
    witness_channels: int = 0
    """Channels of what past frames tell of walls around a coming step, 0: only the newest one does."""


class Odometer(ModelMixin, ConfigMixin):
    """The move of every step: what the actions tell (`Motion`), corrected by what is seen.

    Turns are exact. Free moves are too; a wall in the way is foreseen, by the frame before the step and by past ones, or
    seen afterwards in how the view has changed. The same sight registers a frame of long ago against the newest one. Places
    are float32: they add up over thousands of steps.
    """

    @register_to_config
    def __init__(
        self,
        channels: int,
        motion: dict[str, Any],
        height: int = 12,
        width: int = 16,
        fine: int = 32,
        coarse: int = 48,
        head_width: int = 96,
        view_deg: float = 90.0,
        witness_channels: int = 0,
    ) -> None:
        super().__init__()
        self.motion = Motion.of_json(motion)
        self.views = TwoViews(channels, height, width, fine, coarse, head_width, view_deg)
        self.step = OffsetHead(6, head_width, MOVE_SCALE)
        self.registration = OffsetHead(4, head_width, OFFSET_SCALE)
        self.foresight: Foresight | None = None
        if witness_channels:
            self.foresight = Foresight(fine, height, witness_channels, head_width, view_deg)

    @classmethod
    def of(cls, settings: OdometerSettings, motion: Motion) -> "Odometer":
        return cls(motion=asdict(motion), **asdict(settings))

    def judge(
        self,
        features: Float[Tensor, "batch head_width"],
        free: Float[Tensor, "batch 2"],
        turn_deg: Float[Tensor, " batch"],
        bump: Float[Tensor, "batch 2"],
    ) -> Offset:
        """Whether something changes the move that the actions tell, and the move if so.

        Moves are forward and left of the view before the step; `features` are of the frames before and after it. `bump`
        is what was not told of the move before: two of three changed steps follow another.
        """
        return self.step(features, free, torch.cat((directions(turn_deg), bump / MOVE_SCALE), 1))

    def register(
        self,
        newest: Float[Tensor, "batch channel height width"],
        recalled: Float[Tensor, "batch channel height width"],
        relative: Float[Tensor, "batch 3"],
    ) -> Offset:
        """Whether two views show one place, and if so where the recalled one lies, along the newest one's axes.

        `relative` is where it was told to lie: forward, left, and degrees that it looks further left; of these the last
        is right.
        """
        seen = torch.ones(len(newest), dtype=torch.bool, device=newest.device)
        features = self.views(newest, recalled, relative[:, 2], seen)
        return self.registration(features, relative[:, :2], directions(relative[:, 2]))

    def advance(
        self,
        where: Whereabouts,
        features: Float[Tensor, "batch head_width"],
        actions: Integer[Tensor, "batch step factor"],
        witnesses: Witnesses | None = None,
    ) -> Whereabouts:
        """One step on; `actions` are the newest, at least ACTIONS of them, the step's own last.

        A step that is not seen yet may have `witnesses`: `features` are of the newest view alone then.
        """
        free, heading = self.told_move(where, actions)
        view = where.pose[:, 2]
        if self.foresight is not None and witnesses is not None:
            end = torch.cat((where.pose[:, :2] + free, where.pose[:, 2:]), 1)
            features = features + self.foresight(end, witnesses)
        ahead = turned(free, -view)
        seen = self.judge(features, ahead, heading - view, turned(where.bump, -view))
        # Exactly as told unless something has changed it: a move that is wrong goes on by itself.
        changed = seen.logit > STOPPED
        move = turned(torch.where(changed[:, None], seen.offset, ahead), view)
        doubt = torch.where(changed, CAUTION * seen.variance, STEP_DOUBT)
        return where.moved(move, free, heading, doubt)

    def scans(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch scanned width"]:
        """What frames tell as witnesses of later steps: kept with them, or every step would look at five once more.

        Without foresight nothing: no channels.
        """
        if self.foresight is None:
            return latents.new_zeros(len(latents), 0, latents.shape[-1])
        return self.foresight.scans(self.views.alone(latents))

    def aim(
        self, where: Whereabouts, actions: Integer[Tensor, "batch step factor"]
    ) -> Float[Tensor, "batch 2"]:
        """The place that witnesses of the next step should have seen: where its player's foremost edge would be."""
        free, _ = self.told_move(where, actions)
        return foremost(where.pose[:, :2] + free, free)

    @torch.no_grad()
    def expect(
        self,
        where: Whereabouts,
        newest: Float[Tensor, "batch channel height width"],
        actions: Integer[Tensor, "batch step factor"],
        section: int,
        witnesses: Witnesses | None = None,
    ) -> tuple[Followed, Whereabouts]:
        """Where the section's frames will be seen from before they are made, and where it ends; that is where they are
        when they are made, too: a model errs by a few units, which looks like a step that was changed.

        `actions` end with the section's own. What stands in the way is foreseen for the first step; later ones go as told.
        """
        window = actions[:, : actions.shape[1] - section + 1]
        where = self.advance(where, self.views.told(self.views.alone(newest)), window, witnesses)
        steps = [Followed.one(where, where.pose)]
        for i in range(1, section):
            free, heading = self.told_move(where, actions[:, : window.shape[1] + i])
            where = where.moved(free, free, heading, torch.full_like(heading, STEP_DOUBT))
            steps.append(Followed.one(where, where.pose))
        return joined(steps, 1), where

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
        before the first further frame's own: pad them with "none". With a `trail` of all frames before, loops are closed
        and walls foreseen that the newest frame does not show.
        """
        batch, time = latents.shape[:2]
        known = actions[:, actions.shape[1] - (time - 1) - (ACTIONS - 1) :]
        turns = self.motion.turns(known)[:, ACTIONS - 1 :]
        steps = [Followed.none(where)]
        for first in range(1, time, CHUNK):
            part = slice(first, min(first + CHUNK, time))
            before = latents[:, first - 1 : part.stop - 1].flatten(0, 1)
            after = latents[:, part].flatten(0, 1)
            turn = turns[:, first - 1 : part.stop - 1].flatten()
            present = torch.ones(len(after), dtype=torch.bool, device=after.device)
            unseen = self.views.told(self.views.alone(before)).unflatten(0, (batch, -1))
            seen = self.views(before, after, turn, present).unflatten(0, (batch, -1))
            for i, t in enumerate(range(part.start, part.stop)):
                window = known[:, t - 1 : t - 1 + ACTIONS]
                witnesses = None
                if trail is not None and self.foresight is not None:
                    witnesses = trail.witnesses(self.aim(where, window), self.config.view_deg)
                foreseen = self.advance(where, unseen[:, i], window, witnesses)
                where = self.advance(where, seen[:, i], window)
                sightings = None
                if trail is not None:
                    where, sightings = self.recognised(where, latents[:, t], trail.landmarks(where.pose))
                    trail.add(where)
                steps.append(Followed.one(where, foreseen.pose, sightings))
        return joined(steps, 1), where

    def follow(
        self,
        latents: Float[Tensor, "batch time channel height width"],
        actions: Integer[Tensor, "batch time factor"],
    ) -> Followed:
        """`track` from the beginning of worlds, closing loops: what is known of every frame.

        The first frame is where a world begins, and is expected there.
        """
        scans = torch.cat([self.scans(part) for part in latents.flatten(0, 1).split(CHUNK)])
        trail = Trail(latents, scans.unflatten(0, latents.shape[:2]))
        origin = Whereabouts.origin(len(latents), latents.device)
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
    ) -> tuple[Whereabouts, Sightings]:
        """Where players are who recognise what they have seen before (`retrieval.landmarks`), and what that is."""
        if landmarks is None:
            return where, Sightings.none(len(newest), LANDMARKS, newest.device)
        same, seen, noise = self._compared(newest, where.pose, landmarks.latents, landmarks.poses)
        off = landmarks.poses[..., :2] - seen
        sure = (same > SURE) & landmarks.present
        sightings = Sightings(
            frames=torch.where(sure, landmarks.frames, 0),
            offsets=seen - where.pose[:, None, :2],
            variances=torch.where(sure, noise, torch.inf),
        )
        shift, doubt = recognition(off, CAUTION * noise, landmarks.doubts, where.doubt, sure)
        return replace(where.shifted(shift), doubt=doubt), sightings

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
        if not recalled.shape[1]:
            return recalled_poses
        same, seen, _ = self._compared(newest, newest_pose, recalled, recalled_poses)
        place = torch.where(same[..., None] > 0, seen, recalled_poses[..., :2])
        return torch.cat((place, recalled_poses[..., 2:]), -1)

    def _compared(
        self,
        newest: Float[Tensor, "batch channel height width"],
        newest_pose: Float[Tensor, "batch 3"],
        others: Float[Tensor, "batch n channel height width"],
        other_poses: Float[Tensor, "batch n 3"],
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n 2"], Float[Tensor, "batch n"]]:
        """Whether each shows the newest one's place (a logit), where it was seen from if so, and the variance of that."""
        count = others.shape[1]
        here = newest_pose[:, None].expand(-1, count, -1).flatten(0, 1)
        there = other_poses.flatten(0, 1)
        relative = torch.cat((offset_from(there, here), there[:, 2:] - here[:, 2:]), 1)
        views = newest[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
        found = self.register(views, others.flatten(0, 1), relative)
        seen = here[:, :2] + turned(found.offset, here[:, 2])
        parts = found.logit, seen, found.variance
        same, places, variance = (each.unflatten(0, (-1, count)) for each in parts)
        return same, places, variance
