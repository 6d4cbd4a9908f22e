"""What the rollouts of a revisit recalled: the best frames themselves, and whether they were the right ones."""

import torch

from worldsim.evaluation.held_out import EncodedEpisode, HeldOut
from worldsim.evaluation.rollouts import Rollout
from worldsim.evaluation.route_starts import map_of
from worldsim.evaluation.starts import Start, StartSettings, same_view


def copy_recalled(episode: EncodedEpisode, start: Start, rollout: Rollout) -> torch.Tensor:
    """For each step the best recalled frame itself; the last true frame where nothing was recalled."""
    copies = []
    for recalled in rollout.recalled:
        best = recalled[0] if recalled else start.step - 1
        copies.append(rollout.frame(episode.frames_u8, best, start.step))
    return torch.stack(copies)


def recall_hits(
    held_out: HeldOut, start: Start, rollout: Rollout, thresholds: StartSettings
) -> list[bool | None]:
    """For each step whether a recalled frame sees the same view by true pose; None where no true frame does."""
    poses, rooms = held_out.poses[start.episode], held_out.rooms[start.episode]
    hits: list[bool | None] = []
    for ahead, recalled in enumerate(rollout.recalled):
        seen = same_view(poses, rooms, start.step + ahead, thresholds)
        hits.append(bool(seen[list(recalled)].any()) if seen[: start.step].any() else None)
    return hits


def twins_recalled(held_out: HeldOut, start: Start, rollout: Rollout) -> tuple[int, int]:
    """How many true frames were recalled from the twin that the player comes back to, and how many from the other."""
    twins, rooms = map_of(held_out.headers[start.episode]).twins, held_out.rooms[start.episode]
    assert twins is not None
    home = int(rooms[start.step + len(rollout.recalled) - 1])
    [other] = {*twins} - {home}
    recalled = [int(rooms[frame]) for frames in rollout.recalled for frame in frames if frame < start.step]
    return recalled.count(home), recalled.count(other)
