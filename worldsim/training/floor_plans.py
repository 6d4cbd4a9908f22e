"""Where players of recorded mazes could have stood: what foresight is asked, answered by the maps themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from envs.maze_map import MazeMap
from envs.room import PLAYER_RADIUS
from worldsim.episode import Episode
from worldsim.maze_episodes import maze_settings

NOWHERE = -1e6
"""map units: where decorations are that a map does not have, and half a side of theirs: they block nothing"""


@dataclass(frozen=True)
class FloorPlans:
    """The maps of some episodes; a player is a square of PLAYER_RADIUS to all sides, whichever way it looks."""

    boxes: Float[Tensor, "episode box 4"]
    """insides of rooms and openings, which touch and do not overlap: x0, y0, x1, y1; empty where there are fewer"""
    things: Float[Tensor, "episode thing 3"]
    """decorations: x, y and half a side"""

    @classmethod
    def of(cls, paths: Sequence[Path], device: torch.device) -> "FloorPlans | None":
        """Of these episodes; None if one is of no maze of this version.

        Raises OSError or ValueError if an episode is torn.
        """
        boxes, things = [], []
        for path in paths:
            with Episode.open(path) as episode:
                header = episode.header
            try:
                maze = MazeMap.generate(header.map_seed, maze_settings(header).map)
            except ValueError:
                return None
            inside = [room.box for room in maze.rooms] + [door.box for door in maze.doors]
            boxes.append(torch.tensor(inside, dtype=torch.float32))
            found = [(each.x, each.y, each.kind.radius) for each in maze.things]
            things.append(torch.tensor(found, dtype=torch.float32).view(-1, 3))
        return cls(
            boxes=pad_sequence(boxes, batch_first=True).to(device),
            things=pad_sequence(things, batch_first=True, padding_value=NOWHERE).to(device),
        )

    def blocked(
        self, episode: Int[Tensor, " batch"], places: Float[Tensor, "batch point 2"]
    ) -> Bool[Tensor, "batch point"]:
        """Whether a wall or a decoration keeps players from standing there."""
        low, high = places[:, :, None] - PLAYER_RADIUS, places[:, :, None] + PLAYER_RADIUS
        boxes, things = self.boxes[episode][:, None], self.things[episode][:, None]
        inside = torch.minimum(high, boxes[..., 2:]) - torch.maximum(low, boxes[..., :2])
        area = inside.clamp(min=0).prod(-1).sum(-1)
        apart = (places[:, :, None] - things[..., :2]).abs().amax(-1)
        # Boxes do not overlap: a square is inside where they cover all of it.
        hit = (apart < PLAYER_RADIUS + things[..., 2]).any(-1)
        return hit | (area < (2 * PLAYER_RADIUS) ** 2 - 1)
