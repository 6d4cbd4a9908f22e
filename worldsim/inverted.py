"""Inverted sampling (FramePack, section 3.2): sections from last to first, each approaching the real first frame.

Only where all actions are known: in rollouts, not in play. Drift runs away from what was real; here it runs towards it.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm import tqdm

from retrieval.odometer import ACTIONS
from retrieval.whereabouts import joined
from worldsim.past import Ahead, absent, foreseen, history_of, recent_of
from worldsim.section import Section, shown
from worldsim.world import World, make_section


@torch.no_grad()
def roll_out_inverted(
    worlds: Sequence[World], actions: Int64[Tensor, "batch time factor"], progress: tqdm | None = None
) -> list[list[Section]]:
    """Sections of all worlds in the order of time, made in the other; the worlds themselves stay where they are.

    Each begins at its world's first frames, which must be all that it has: others behind them would be out of sight.
    ValueError otherwise, or if the schedule is not an inverted one.
    """
    models = worlds[0].models
    schedule, memories = models.schedule, [world.memory for world in worlds]
    size = schedule.section
    if not schedule.coming or schedule.recent:
        raise ValueError(
            f"schedule {schedule.text!r} is not inverted; it needs one like f1k1_x_g1_f1k1f4k2f16k4_td"
        )
    if any(len(memory) != schedule.first_frames for memory in memories):
        raise ValueError(
            f"worlds of {[len(memory) for memory in memories]} frames; inverted sampling begins at the first "
            f"{schedule.first_frames}, without others behind them"
        )
    actions = actions.to(models.device)
    newest = recent_of(memories, models, max(ACTIONS, models.transformer.config.action_window))
    known = torch.cat((newest.actions, actions), 1)
    where = joined([world.where for world in worlds])
    maker, total = worlds[0].maker, actions.shape[1]
    poses = foreseen(memories, maker, where, newest.latents[:, -1], known, total)[0].poses
    before, nothing = known.shape[1] - actions.shape[1], recent_of(memories, models)
    made: list[Float[Tensor, "batch section channel height width"]] = []
    for first in reversed(range(0, actions.shape[1], size)):
        stop = first + size
        ahead = _ahead(worlds, made, poses, actions, stop)
        history = history_of(
            memories, models, nothing, [()] * len(worlds), [()] * len(worlds), poses[:, first:stop], ahead
        )
        history = replace(history, first=history.first.older(first))
        made.insert(0, make_section(worlds, history, known[:, : before + stop]))
        for world in worlds:
            world.steps += 1
        if progress is not None:
            progress.update(len(worlds) * size)
    return [shown(worlds[0].maker, latents) for latents in made]


def _ahead(
    worlds: Sequence[World],
    made: Sequence[Float[Tensor, "batch section channel height width"]],
    poses: Float[Tensor, "batch time 3"],
    actions: Int64[Tensor, "batch time factor"],
    stop: int,
) -> Ahead:
    """What has been made behind action `stop`, as far as the schedule reaches."""
    schedule = worlds[0].models.schedule
    nothing = recent_of([world.memory for world in worlds], worlds[0].models)
    ahead = Ahead.nothing(schedule, nothing)
    count = min(len(made) * schedule.section, ahead.coming.ages.shape[1])
    if not count:
        return ahead
    frames = absent(ahead.coming.ages.shape[1], nothing.latents)
    part, near = slice(stop, stop + count), made[: -(-count // schedule.section)]
    frames.latents[:, :count] = torch.cat(tuple(near), 1)[:, :count].to(nothing.latents.dtype)
    frames.poses[:, :count], frames.present[:, :count] = poses[:, part], True
    frames.ages[:] = torch.arange(1, frames.ages.shape[1] + 1, device=frames.ages.device)
    ahead.coming_actions[:, :count] = actions[:, part]
    return replace(ahead, coming=frames)
