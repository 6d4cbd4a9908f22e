"""The HDF5 format of episodes: names, versions and types. One file is one episode.

| dataset | shape, type | meaning |
|---|---|---|
| `frames` | (time, height, width, 3) uint8 | RGB, one gzip chunk a frame |
| `actions` | (time, factor) uint8 | `actions[t]` led to frame t; row 0 is zeros |
| `poses` | (time, 4) float32 | x, y, z in map units, yaw in degrees [0, 360); NaN where nobody knows |
| `rooms` | (time,) int16 | room number; -1 where nobody knows |
| `tics` | (time,) int32 | the engine's clock |
| `frame_crcs` | (time,) uint32 | CRC-32 of each frame's bytes: tells torn files and inexact replays |

The attributes are those of `EpisodeHeader`, `format`, `format_version` and `complete`. An episode in the making is
a log, `*.h5.part`: see `worldsim.episode_part`.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from worldsim.action_space import ActionSpace

FORMAT: Final = "worldsim-episode"
FORMAT_VERSION: Final = 1
COLUMN_TYPES: Final[dict[str, np.dtype[Any]]] = {
    "actions": np.dtype("u1"),
    "poses": np.dtype("f4"),
    "rooms": np.dtype("i2"),
    "tics": np.dtype("i4"),
    "frame_crcs": np.dtype("u4"),
}
"""Every dataset beside the frames."""
DATASETS: Final = ("frames", *COLUMN_TYPES)
_NAME: Final = re.compile(r"episode_(\d{6,})\.h5(\.part)?")


@dataclass(frozen=True, kw_only=True)
class EpisodeHeader:
    """What must be known beside the actions to replay an episode in its engine."""

    environment: str
    """gymnasium id, such as "WorldSim/Maze-v0"."""
    engine: str
    """Engine and version: only the same one replays bit for bit."""
    seed: int
    map_seed: int
    map_hash: str
    """sha256 of the map, empty if the environment has none."""
    action_space: ActionSpace
    settings: dict[str, Any]
    """The environment's settings as plain JSON values."""

    def __post_init__(self) -> None:
        # Tuples become lists, so that a header read back equals the one written.
        object.__setattr__(self, "settings", json.loads(json.dumps(self.settings)))

    def to_attributes(self) -> dict[str, Any]:
        """HDF5 attributes; `from_attributes` reads them back."""
        return {
            "environment": self.environment,
            "engine": self.engine,
            "seed": self.seed,
            "map_seed": self.map_seed,
            "map_hash": self.map_hash,
            "action_space": self.action_space.to_json(),
            "settings": json.dumps(self.settings),
        }

    @classmethod
    def from_attributes(cls, attributes: Any) -> "EpisodeHeader":
        """Read the attributes of a file. Raises KeyError or ValueError if they are none."""
        return cls(
            environment=str(attributes["environment"]),
            engine=str(attributes["engine"]),
            seed=int(attributes["seed"]),
            map_seed=int(attributes["map_seed"]),
            map_hash=str(attributes["map_hash"]),
            action_space=ActionSpace.from_json(attributes["action_space"]),
            settings=json.loads(attributes["settings"]),
        )


def check_format(path: Path, file: h5py.File) -> None:
    """Raise ValueError if an open HDF5 file is no episode, of another version, or lacks a dataset."""
    if file.attrs.get("format") != FORMAT:
        raise ValueError(f"{path} is an HDF5 file but not an episode; give files of worldsim record")
    version = int(file.attrs.get("format_version", 0))
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has episode format {version}, this worldsim reads {FORMAT_VERSION}; "
            "record it anew or use the worldsim that wrote it"
        )
    missing = [name for name in DATASETS if name not in file]
    if missing:
        raise ValueError(f"{path} lacks the dataset {missing[0]!r}; delete it or rerun worldsim record")


def column_shape(name: str, factors: int) -> tuple[int, ...]:
    """Shape of one row of a dataset beside the frames."""
    return {"actions": (factors,), "poses": (4,)}.get(name, ())


def episode_path(folder: Path, number: int) -> Path:
    """Where episode `number` (>= 0) of a folder lies."""
    return folder / f"episode_{number:06d}.h5"


def part_path(path: Path) -> Path:
    """Where an episode lies while it is being written."""
    return path.with_name(path.name + ".part")


def episode_number(path: Path) -> int | None:
    """The number in an episode's or an unfinished episode's name; None for other files."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def next_episode_path(folder: Path) -> Path:
    """The path after the last episode of `folder`, finished or not; the folder is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [number for path in folder.iterdir() if (number := episode_number(path)) is not None]
    return episode_path(folder, max(numbers, default=-1) + 1)


def list_episodes(folder: Path) -> list[Path]:
    """The finished episodes of a folder, in order of their numbers.

    Raises FileNotFoundError if the folder is missing or holds none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; run worldsim record --out {folder}")
    found = {path: episode_number(path) for path in folder.glob("episode_*.h5")}
    paths = sorted((number, path) for path, number in found.items() if number is not None)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no finished episodes; run worldsim record --out {folder}")
    return [path for _, path in paths]
