"""Film strips of what the model in training makes, on episodes that it does not train on."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from worldsim.checkpoint import WorldModels
from worldsim.files import atomic_path
from worldsim.training.data import LatentEpisodes
from worldsim.training.sharding import is_sharded
from worldsim.training.state import TrainingState
from worldsim.world import World, WorldSettings, step_worlds

ROWS, STEPS, EVERY = 4, 48, 4


class ModelPreview:
    """Rolls the averaged weights out for 48 frames from true history; truth above, made below."""

    def __init__(
        self, models: WorldModels, state: TrainingState, episodes: LatentEpisodes, folder: Path
    ) -> None:
        self.models, self.state, self.episodes, self.folder = models, state, episodes, folder

    def __call__(self, writer: SummaryWriter | None, step: int) -> None:
        """The process with the writer shows it; where weights are split over processes, all are needed for it."""
        if not len(self.episodes) or (writer is None and not is_sharded(self.state.module)):
            return
        self.state.copy_average_to(self.models.transformer)
        if writer is None:
            return
        picture = self.strips()
        writer.add_image("truth_above_made", picture, step, dataformats="HWC")
        with atomic_path(self.folder / f"step_{step:06d}.png") as part:
            Image.fromarray(picture).save(part, format="PNG")

    @torch.no_grad()
    def strips(self) -> UInt8[np.ndarray, "height width 3"]:
        """Every fourth frame of a few rollouts."""
        count = min(ROWS, len(self.episodes))
        start = int(self.episodes.lengths[:count].min()) * 2 // 3
        worlds = [World(self.models, WorldSettings(), seed=i) for i in range(count)]
        for i, world in enumerate(worlds):
            world.observe(self.episodes.latents[i, :start].float(), self.episodes.actions[i, :start])
        steps = min(STEPS, int(self.episodes.lengths[:count].min()) - start)
        made: list[list[np.ndarray]] = [[] for _ in worlds]
        for t in range(start, start + steps, worlds[0].section_length):
            actions = self.episodes.actions[:count, t : t + worlds[0].section_length]
            for row, section in zip(made, step_worlds(worlds, actions), strict=True):
                row.extend(section.frames_u8)
        rows = []
        for i in range(count):
            truth = self.models.autoencoder.decode_frames(
                self.episodes.latents[i, start : start + steps].float()
            )
            rows.append(np.concatenate(list(truth.cpu().numpy()[::EVERY]), 1))
            rows.append(np.concatenate(made[i][:steps:EVERY], 1))
        return np.concatenate(rows, 0)
