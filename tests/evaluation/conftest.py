"""Recorded episodes in which every view comes back, and a tiny model that takes their actions."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from envs.maze import MazeEnv
from retrieval.motion import fit_motion
from retrieval.odometer import Odometer
from worldsim.action_space import ActionSpace
from worldsim.build import build_models
from worldsim.checkpoint import save_checkpoint
from worldsim.episode import Episode, EpisodeHeader, EpisodeWriter
from worldsim.evaluation.lpips import CHANNELS, Lpips
from worldsim.presets import tiny

STEPS = 120


def look_around(steps: int) -> Iterator[np.ndarray]:
    """Turn a full circle, wait longer than the recent context, turn again: every view comes back."""
    for step in range(steps):
        yield np.array([0, 1 if step % 54 < 26 else 0, 0], np.int64)


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of a player who turns on the spot, on two maps."""
    folder = tmp_path_factory.mktemp("data")
    env = MazeEnv()
    for number in range(2):
        frame, info = env.reset(seed=number)
        header = EpisodeHeader(
            environment="WorldSim/Maze-v0",
            engine=MazeEnv.engine,
            seed=number,
            map_seed=info["map_seed"],
            map_hash=info["map_hash"],
            action_space=ActionSpace.from_env(env),
            settings={},
        )
        with EpisodeWriter(folder / f"episode_{number:06d}.h5", header) as writer:
            writer.append(frame, np.zeros(3, np.int64), pose=info["pose"], room=info["room"], tic=info["tic"])
            for action in look_around(STEPS - 1):
                frame, _, _, _, info = env.step(action)
                writer.append(frame, action, pose=info["pose"], room=info["room"], tic=info["tic"])
    env.close()
    return folder


@pytest.fixture(scope="package")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights that takes the maze's actions."""
    with Episode.open(data / "episode_000000.h5") as episode:
        space = episode.header.action_space
    folder = tmp_path_factory.mktemp("checkpoint")
    models = build_models(tiny(), space, seed=0)
    with Episode.open(data / "episode_000000.h5") as episode:
        actions, poses = torch.from_numpy(episode.actions)[None], torch.from_numpy(episode.poses)[None]
    motion, _, _ = fit_motion(actions, poses, torch.tensor([STEPS]), space.sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models.odometer = Odometer.of(tiny().odometer, motion)
    models.odometer.step.mlp[-1].bias.data[0] = -10.0  # an untrained gate opens by chance: trust the actions
    models.odometer.registration.mlp[-1].bias.data[:] = (
        0.5  # registers everything 32 units too far forward and left
    )
    # Fresh weights make the same velocity whatever the history: some layers begin at zero.
    generator = torch.Generator().manual_seed(0)
    for parameter in models.transformer.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_checkpoint(models, folder)
    return folder


@pytest.fixture(scope="package")
def lpips_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """AlexNet, with a classifier as in the file that torchvision loads, and LPIPS's heads.

    Their numbers look like random ones and are the same everywhere.
    """

    def wave(like: torch.Tensor, speed: float) -> torch.Tensor:
        return (torch.arange(like.numel(), dtype=torch.float64).square() * speed).sin().view(like.shape)

    folder, backbone, heads = tmp_path_factory.mktemp("lpips"), {"classifier.1.bias": torch.zeros(3)}, {}
    for number, (name, like) in enumerate(Lpips().features.state_dict().items()):
        scale = (2 / like[0].numel()) ** 0.5
        backbone[f"features.{name}"] = (scale * wave(like, 0.7 + 0.01 * number)).float()
    for number, channels in enumerate(CHANNELS):
        head = wave(torch.zeros(1, channels, 1, 1), 0.3 + number).abs()
        heads[f"lin{number}.model.1.weight"] = head.float()
    torch.save(backbone, folder / "alexnet.pth")
    save_file(heads, folder / "alex.safetensors")
    return folder / "alexnet.pth", folder / "alex.safetensors"
