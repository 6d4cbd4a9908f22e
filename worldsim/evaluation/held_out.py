"""Held-out episodes as an evaluation needs them: poses of all, frames and latents of those that are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from models.autoencoder import FrameAutoencoder
from retrieval.whereabouts import Followed
from worldsim.checkpoint import WorldModels, load_checkpoint
from worldsim.device import choose_device
from worldsim.episode import Episode, list_episodes

BATCH = 256
"""Frames encoded or decoded at once."""


@dataclass(frozen=True, kw_only=True)
class EncodedEpisode:
    """The beginning of an episode: frames on the CPU, latents on the model's device."""

    frames_u8: UInt8[Tensor, "time height width 3"]
    latents: Float[Tensor, "time channel h w"]
    followed: Followed
    """the odometer's account of them, a batch of one, from the first frame's place"""


class HeldOut:
    """All episodes of a folder. Frames stay on disk; the rest is small and kept."""

    def __init__(self, folder: Path, keep: bool = False) -> None:
        """With `keep` latents and depths that were made once stay in memory: 12 and 24 kB a frame of 128x96.

        Raises OSError or ValueError, one line, if the folder holds no sound episodes.
        """
        self.paths = list_episodes(folder)
        self.keep = keep
        self.kept_depths: dict[int, Float[Tensor, "_ height width"]] = {}
        self._kept: dict[int, tuple[Float[Tensor, "_ channel h w"], Followed]] = {}
        self.poses: list[Float32[np.ndarray, "_ 4"]] = []
        self.rooms: list[Int[np.ndarray, " _"]] = []
        self.actions: list[Int64[np.ndarray, "_ factor"]] = []
        self.map_seeds: list[int] = []
        self.headers = []
        for path in self.paths:
            with Episode.open(path) as episode:
                self.poses.append(episode.poses)
                self.rooms.append(episode.rooms)
                self.actions.append(episode.actions.astype(np.int64))
                self.map_seeds.append(episode.header.map_seed)
                self.headers.append(episode.header)

    @property
    def lengths(self) -> list[int]:
        """Frames of each episode."""
        return [len(actions) for actions in self.actions]

    def load_models(self, checkpoint: Path, device: str) -> WorldModels:
        """The model, if it takes the actions of these episodes: bfloat16 on a GPU, float32 on a CPU.

        A CPU would otherwise choose its precision by a stopwatch, and a second run could differ.
        """
        dtype = torch.float32 if choose_device(device).type == "cpu" else None
        models = load_checkpoint(checkpoint, device=device, dtype=dtype)
        for path, header in zip(self.paths, self.headers, strict=True):
            if header.action_space.sizes != models.action_space.sizes:
                raise ValueError(
                    f"{path} has actions {header.action_space.sizes}, the checkpoint takes "
                    f"{models.action_space.sizes}; evaluate it on recordings of the game it was trained on"
                )
        return models

    def read(self, index: int, frames: Int64[np.ndarray, " time"]) -> UInt8[Tensor, "time height width 3"]:
        """Frames of those numbers of one episode."""
        with Episode.open(self.paths[index]) as episode:
            return torch.from_numpy(episode.frame_at(frames))

    def sample(
        self, count: int, rng: np.random.Generator, episodes: Sequence[int] | None = None
    ) -> tuple[UInt8[Tensor, "frame height width 3"], Int64[np.ndarray, " frame"]]:
        """Frames spread evenly over episodes (None: all), random within each, and the map that each is of."""
        chosen_from = range(len(self.paths)) if episodes is None else episodes
        shares = np.array_split(np.arange(count), len(chosen_from))
        frames, maps = [], []
        for index, share in zip(tqdm(chosen_from, desc="frames", unit="episode"), shares, strict=True):
            length = self.lengths[index]
            chosen = np.sort(rng.choice(length, size=min(len(share), length), replace=False))
            if len(chosen):
                frames.append(self.read(index, chosen))
                maps += [self.map_seeds[index]] * len(chosen)
        return torch.cat(frames), np.array(maps)

    def encode(self, models: WorldModels, stops: Mapping[int, int]) -> dict[int, EncodedEpisode]:
        """Frames 0 .. stop-1 of each episode in `stops`, with their latents."""
        frames_u8 = {index: self.read(index, np.arange(stop)) for index, stop in stops.items()}
        new = {index: frames for index, frames in frames_u8.items() if len(frames) > self._known(index)}
        told = dict(self._kept)
        if new:
            told |= self._follow(models, new)
        if self.keep:
            self._kept |= told
        return {
            index: EncodedEpisode(
                frames_u8=frames_u8[index], latents=told[index][0][:stop], followed=told[index][1].part(0, stop)
            )
            for index, stop in stops.items()
        }  # fmt: skip

    def _known(self, index: int) -> int:
        """How many frames of an episode have been encoded and kept."""
        return len(self._kept[index][0]) if index in self._kept else 0

    def _follow(
        self, models: WorldModels, frames_u8: Mapping[int, UInt8[Tensor, "_ height width 3"]]
    ) -> dict[int, tuple[Float[Tensor, "_ channel h w"], Followed]]:
        """Latents of each episode's frames and the odometer's account of them, a batch of one."""
        latents = {index: encode(models.autoencoder, frames) for index, frames in frames_u8.items()}
        actions = [torch.from_numpy(self.actions[index][: len(each)]) for index, each in latents.items()]
        # All at once: following is step by step, and a GPU would wait for every step of every episode.
        followed = models.odometer.follow(
            pad_sequence(list(latents.values()), batch_first=True),
            pad_sequence(actions, batch_first=True).to(models.device),
        )
        return {index: (each, followed.part(i, len(each))) for i, (index, each) in enumerate(latents.items())}


def encode(
    autoencoder: FrameAutoencoder, frames_u8: UInt8[Tensor, "time height width 3"]
) -> Float[Tensor, "time channel h w"]:
    """Latents on the autoencoder's device of frames on the CPU."""
    parts = [autoencoder.encode_frames(part.to(autoencoder.device)) for part in frames_u8.split(BATCH)]
    return torch.cat(parts)


def decode(
    autoencoder: FrameAutoencoder, latents: Float[Tensor, "time channel h w"]
) -> UInt8[Tensor, "time height width 3"]:
    """Frames on the CPU of latents."""
    return torch.cat([autoencoder.decode_frames(part).cpu() for part in latents.split(BATCH)])
