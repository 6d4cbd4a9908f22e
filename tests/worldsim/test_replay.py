"""Replay: exact for what was recorded, and a line for every kind of change."""

from pathlib import Path

import h5py
import pytest

from envs.maze import MazeEnvSettings
from worldsim.deflate import deflate
from worldsim.episode import Episode, list_episodes
from worldsim.maze_episodes import maze_settings
from worldsim.record import RecordSettings, record
from worldsim.replay import replay


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "episodes"
    record(RecordSettings(out=folder, episodes=3, workers=2, steps=70, held_out=True))
    return folder


def test_every_change_is_found(folder: Path) -> None:
    """Guards against a replay that compares too little: one pixel, one pose, one hash, another engine."""
    report = replay(folder, workers=2)
    assert report.exact
    assert report.table() == "3 episodes, 213 frames: all replayed exactly"
    paths = list_episodes(folder)
    with h5py.File(paths[0], "r+") as file:
        frame = file["frames"][50]
        frame[3, 4, 1] ^= 1
        file["frames"].id.write_direct_chunk((50, 0, 0, 0), deflate.compress(frame, 1))
    with h5py.File(paths[1], "r+") as file:
        file["poses"][69, 3] += 0.001
        file["tics"][2] += 1
    with h5py.File(paths[2], "r+") as file:
        file.attrs["engine"] = "vizdoom 1.2.0"
        file.attrs["map_hash"] = "0" * 64
    report = replay(folder, workers=1)
    assert not report.exact
    assert [(m.episode, m.what, m.step) for m in report.mismatches] == [
        ("episode_000000.h5", "frame", 50),
        ("episode_000001.h5", "tic", 2),
        ("episode_000001.h5", "pose", 69),
        ("episode_000002.h5", "engine", 0),
        ("episode_000002.h5", "map_hash", 0),
    ]
    assert report.mismatches[0].replayed == "1 of 12288 pixels differ"
    assert len(report.table().splitlines()) == 6
    assert report.to_json()["mismatches"][3]["recorded"] == "vizdoom 1.2.0"
    with Episode.open(paths[0]) as episode:
        assert episode.torn_frames() == [50]


def test_settings_of_the_recording_are_those_of_the_replay(tmp_path: Path) -> None:
    """Guards against replaying with this version's defaults: another render size gives other pixels."""
    env = MazeEnvSettings(supersample=2, tics_per_step=3)
    record(RecordSettings(out=tmp_path, episodes=1, workers=1, steps=40, env=env))
    with Episode.open(list_episodes(tmp_path)[0]) as episode:
        assert maze_settings(episode.header) == env != MazeEnvSettings()
    assert replay(tmp_path, workers=1).exact
    with h5py.File(list_episodes(tmp_path)[0], "r+") as file:
        file.attrs["settings"] = file.attrs["settings"].replace('"supersample": 2', '"supersample": 4')
    assert [m.what for m in replay(tmp_path, workers=1).mismatches] == ["frame"]


def test_what_cannot_be_replayed_is_named(folder: Path, tmp_path: Path) -> None:
    """Guards against an empty replay that passes, and against a traceback for another game's episode."""
    with pytest.raises(FileNotFoundError, match="is not a folder; run worldsim record"):
        replay(tmp_path / "nothing")
    with h5py.File(folder / "episode_000001.h5", "r+") as file:
        file.attrs["environment"] = "Other/Game-v0"
    with pytest.raises(OSError, match=r"episode_000001\.h5: environment 'Other/Game-v0' cannot be replayed"):
        replay(folder, workers=1)
