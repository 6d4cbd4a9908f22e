"""Does the world do as it is told? A small network that has seen real play alone judges how the player moved.

It is trained when it is needed, on recorded frames and their true poses, and knows nothing of any world model.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, UInt8
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from retrieval.motion import Motion

SIZE = (48, 64)
"""rows and columns that it looks at"""
SCALES = (10.0, 10.0, 10.0)
"""degrees of turn and map units forward and left that it counts in"""
REACH = (1, 4)
"""rows and columns of its features by which views are shifted against each other: more than a turn of 14 degrees"""
TURNS_DEG = 3.5
"""turns below this count as none; a step turns by 7 to 14 degrees"""
STANDS_UNITS = 2.0
"""told moves below this count as none"""


@dataclass(frozen=True, kw_only=True)
class InverseDynamicsTraining:
    """How long the judge is trained."""

    steps: int = 2400
    batch: int = 64
    learning_rate: float = 1e-3


class InverseDynamics(nn.Module):
    """Two neighbouring frames -> by how many degrees the player turned left, and moved forward and left, between them."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
        )
        shifts = (2 * REACH[0] + 1) * (2 * REACH[1] + 1)
        layers: list[nn.Module] = []
        for before, after in ((shifts + width, 64), (64, 64)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
        self.compare = nn.Sequential(*layers)
        self.tell = nn.Sequential(nn.Linear(64 * 12, 128), nn.SiLU(), nn.Linear(128, 3))

    def forward(
        self, before: Float[Tensor, "batch 3 rows cols"], after: Float[Tensor, "batch 3 rows cols"]
    ) -> Float[Tensor, "batch 3"]:
        first, second = (functional.normalize(self.look(each), dim=1) for each in (before, after))
        down, across = REACH
        rows, cols = first.shape[2:]
        padded = functional.pad(second, (across, across, down, down))
        # How well each place of one view fits those around it in the other (FlowNet's correlation, Fischer et al. 2015).
        fits = [
            (first * padded[:, :, y : y + rows, x : x + cols]).sum(1)
            for y in range(2 * down + 1)
            for x in range(2 * across + 1)
        ]
        told: Float[Tensor, "batch 3"] = self.tell(
            self.compare(torch.cat((torch.stack(fits, 1), first), 1)).flatten(1)
        )
        return told * told.new_tensor(SCALES)


def small(frames_u8: UInt8[Tensor, "n height width 3"]) -> Float[Tensor, "n 3 rows cols"]:
    """What it looks at: frames averaged down, colours in [-1, 1]."""
    return functional.interpolate(frames_u8.permute(0, 3, 1, 2).float() / 127.5 - 1, SIZE, mode="area")


def true_moves(poses: Float[np.ndarray, "n 4"]) -> Float[Tensor, "n-1 3"]:
    """Turn left in degrees, and units forward and left of the view before, between neighbouring poses (x, y, z, yaw)."""
    known = torch.from_numpy(np.asarray(poses, np.float32))
    step, yaw = known[1:, :2] - known[:-1, :2], torch.deg2rad(known[:-1, 3])
    turn = (known[1:, 3] - known[:-1, 3] + 180) % 360 - 180
    forward = step[:, 0] * yaw.cos() + step[:, 1] * yaw.sin()
    left = step[:, 1] * yaw.cos() - step[:, 0] * yaw.sin()
    return torch.stack((turn, forward, left), 1)


def fit_inverse_dynamics(
    episodes: Iterable[tuple[UInt8[Tensor, "_ height width 3"], Float[np.ndarray, "_ 4"]]],
    device: torch.device,
    settings: InverseDynamicsTraining | None = None,
    seed: int = 0,
) -> InverseDynamics:
    """Train a judge on recorded episodes: frames and where they were seen from (x, y, z, yaw in degrees)."""
    settings = settings or InverseDynamicsTraining()
    pictures, told = [], []
    for frames_u8, poses in episodes:
        pictures.append(small(frames_u8.to(device)).half())
        told.append(true_moves(poses))
    before, after = (torch.cat([each[part] for each in pictures]) for part in (slice(0, -1), slice(1, None)))
    moves = torch.cat(told).to(device)
    scales = moves.new_tensor(SCALES)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = InverseDynamics().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, settings.steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in tqdm(range(settings.steps), desc="inverse dynamics", unit="step"):
        rows = torch.randint(len(moves), (settings.batch,), generator=generator).to(device)
        wanted = moves[rows] / scales
        pair = softened(torch.stack((before[rows].float(), after[rows].float())), generator).unbind(0)
        if torch.rand(1, generator=generator) < 0.5:  # in a mirror left is right
            pair, wanted = (pair[0].flip(-1), pair[1].flip(-1)), wanted * wanted.new_tensor((-1.0, 1.0, -1.0))
        loss = functional.smooth_l1_loss(model(*pair) / scales, wanted, beta=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def softened(
    pictures: Float[Tensor, "2 batch 3 rows cols"], generator: torch.Generator
) -> Float[Tensor, "2 batch 3 rows cols"]:
    """Pairs blurred and faded alike, half of the times: a world that has gone soft is still judged by how it moves."""
    draw = torch.rand(3, generator=generator)
    if draw[0] < 0.5:
        return pictures
    flat = pictures.flatten(0, 1)
    for _ in range(1 + int(draw[1] < 0.5)):
        flat = functional.avg_pool2d(flat, 3, 1, 1, count_include_pad=False)
    mean = flat.mean((1, 2, 3), keepdim=True)
    return (mean + (0.4 + 0.6 * float(draw[2])) * (flat - mean)).view_as(pictures)


@torch.no_grad()
def judged_moves(
    model: InverseDynamics, frames_u8: UInt8[Tensor, "n height width 3"]
) -> Float[Tensor, "n-1 3"]:
    """Turn and moves between neighbouring frames, on the CPU."""
    device = next(model.parameters()).device
    parts = []
    for first in range(0, len(frames_u8) - 1, 256):
        pictures = small(frames_u8[first : first + 257].to(device))
        parts.append(model(pictures[:-1], pictures[1:]).cpu())
    return torch.cat(parts)


def told_moves(motion: Motion, actions: Integer[Tensor, "time factor"]) -> Float[Tensor, "time 3"]:
    """What the actions tell where nothing stands in the way; turn left, and units forward and left of the view before."""
    turns = motion.turns(actions[None])[0]
    headings = turns.cumsum(0)
    free = motion.free_moves(actions[None], headings[None])[0]
    move, moves = torch.zeros(2), []
    for step in free:
        move = motion.carry * move + step
        moves.append(move)
    along = torch.stack(moves)
    view = torch.deg2rad(headings - turns)
    forward = along[:, 0] * view.cos() + along[:, 1] * view.sin()
    left = along[:, 1] * view.cos() - along[:, 0] * view.sin()
    return torch.stack((turns, forward, left), 1)


def as_told(
    judged: Float[Tensor, "*batch 3"], told: Float[Tensor, "*batch 3"]
) -> tuple[Bool[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
    """Whether each step turned, and moved, as its actions say.

    A turn agrees when it goes to the same side, or none is told and none seen. A move agrees when it goes at least a third
    as far and within 60 degrees the way it is told; where none is told, when it stays below twice STANDS_UNITS. Walls make
    true moves disagree as well: compare with real play.
    """
    sides = [(each[..., 0] > TURNS_DEG).int() - (each[..., 0] < -TURNS_DEG).int() for each in (judged, told)]
    seen, wanted = judged[..., 1:], told[..., 1:]
    far, goes = wanted.norm(dim=-1), seen.norm(dim=-1)
    along = (seen * wanted).sum(-1)
    follows = (goes >= far / 3) & (along >= 0.5 * far * goes)
    return sides[0] == sides[1], torch.where(far < STANDS_UNITS, goes < 2 * STANDS_UNITS, follows)
