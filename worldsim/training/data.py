"""Recorded episodes as training data: frames for the autoencoder, latents for everything else."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from models.autoencoder import FrameAutoencoder
from worldsim.tensor_files import save_tensors
from worldsim.training.reading import read_episodes

CACHE_VERSION = 1


def sample_frames(
    paths: Sequence[Path], total: int, workers: int, device: torch.device, show: bool
) -> UInt8[Tensor, "frame frame_height frame_width 3"]:
    """About `total` frames spread evenly over the episodes, on the device."""
    per_episode = max(1, total // len(paths))
    parts = read_episodes(paths, per_episode, workers, "read frames", show)
    return torch.cat([torch.from_numpy(part.frames_u8).to(device) for part in parts])


@dataclass(frozen=True)
class LatentEpisodes:
    """Episodes in latents, padded at the end to the longest; `lengths` says how much is real."""

    latents: Float[Tensor, "episode time channel height width"]
    actions: UInt8[Tensor, "episode time factor"]
    poses: Float[Tensor, "episode time 4"]
    rooms: Int[Tensor, "episode time"]
    lengths: Int[Tensor, " episode"]

    @cached_property
    def shortest(self) -> int:
        """Frames of the shortest episode; asked for once, because the answer waits for the device."""
        return int(self.lengths.min())

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device) -> "LatentEpisodes":
        return LatentEpisodes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def split(self, validation: int) -> tuple["LatentEpisodes", "LatentEpisodes"]:
        """All but the last `validation` episodes, and those."""

        def part(where: slice) -> "LatentEpisodes":
            return LatentEpisodes(**{f.name: getattr(self, f.name)[where] for f in fields(self)})

        if validation >= len(self):
            raise ValueError(f"{len(self)} episodes cannot spare {validation} for validation; record more")
        return part(slice(0, len(self) - validation)), part(slice(len(self) - validation, len(self)))


def encode_episodes(
    paths: Sequence[Path], autoencoder: FrameAutoencoder, workers: int, show: bool
) -> LatentEpisodes:
    """Encode whole episodes on the autoencoder's device; latents stay there in float16."""
    parts: list[dict[str, Tensor]] = []
    for arrays in read_episodes(paths, None, workers, "encode", show):
        frames = torch.from_numpy(arrays.frames_u8)
        latents = [
            autoencoder.encode_frames(chunk.to(autoencoder.device)).half() for chunk in frames.split(256)
        ]
        parts.append({
            "latents": torch.cat(latents), "actions": torch.from_numpy(arrays.actions),
            "poses": torch.from_numpy(arrays.poses), "rooms": torch.from_numpy(arrays.rooms),
        })  # fmt: skip
    lengths = torch.tensor([len(part["actions"]) for part in parts])
    padded = {
        name: torch.nn.utils.rnn.pad_sequence([part[name] for part in parts], batch_first=True).to(
            autoencoder.device
        )
        for name in parts[0]
    }
    return LatentEpisodes(**padded, lengths=lengths.to(autoencoder.device))


def cached_latents(
    paths: Sequence[Path], autoencoder: FrameAutoencoder, cache: Path, workers: int, show: bool
) -> LatentEpisodes:
    """`encode_episodes`, kept in a file that is used again while recordings and autoencoder are the same.

    Of several trainings that begin at once with one cache, one encodes and the others wait for it.
    """
    fingerprint = _fingerprint(paths, autoencoder)
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cache.with_suffix(".lock")):
        return _read_or_encode(paths, autoencoder, cache, fingerprint, workers, show)


def _read_or_encode(
    paths: Sequence[Path],
    autoencoder: FrameAutoencoder,
    cache: Path,
    fingerprint: str,
    workers: int,
    show: bool,
) -> LatentEpisodes:
    # A torn cache is made anew like a stale one.
    with suppress(FileNotFoundError, SafetensorError):
        with safe_open(cache, framework="pt") as file:
            same = (file.metadata() or {}).get("fingerprint") == fingerprint
        if same:
            return LatentEpisodes(**load_file(cache)).to(autoencoder.device)
    episodes = encode_episodes(paths, autoencoder, workers, show)
    tensors = {f.name: getattr(episodes, f.name).contiguous().cpu() for f in fields(episodes)}
    save_tensors(cache, tensors, {"fingerprint": fingerprint})
    return episodes


def _fingerprint(paths: Sequence[Path], autoencoder: FrameAutoencoder) -> str:
    digest = hashlib.sha256(str(CACHE_VERSION).encode())
    for path in paths:
        digest.update(f"{path.name}:{path.stat().st_size};".encode())
    for name, tensor in autoencoder.state_dict().items():
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def own_share(paths: Sequence[Path], rank: int, count: int) -> list[Path]:
    """The episodes of one process of several."""
    if len(paths) < count:
        raise ValueError(f"{len(paths)} episodes for {count} processes; record at least one a process")
    return list(paths[rank::count])
