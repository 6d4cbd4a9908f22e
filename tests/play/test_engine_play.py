"""Playing and recording in the real engine."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from worldsim.episode import Episode
from worldsim.play.engine_simulation import EngineSimulation
from worldsim.play.headless import HeadlessSettings, play_headless
from worldsim.play.recording import Recording
from worldsim.play.route import RandomRoute, make_route
from worldsim.play.session import PlaySession, SessionSettings
from worldsim.replay import replay


def test_what_the_keyboard_recorded_replays_bit_for_bit(tmp_path: Path, wait) -> None:
    """Guards against recordings whose frames and actions are shifted, and against headers without the map."""
    recording = Recording(tmp_path / "episodes")
    session = PlaySession(EngineSimulation, SessionSettings(seed=4, max_fps=0.0), recording)
    session.start()
    for held in (("w",), ("w", "right"), ("a", "left"), ("down",)):
        before = session.screen.snapshot().frame
        for key in held:
            session.press(key)
        wait(lambda before=before: session.screen.snapshot().frame > before + 3)
        for key in held:
            session.release(key)
    session.reset(11)
    wait(lambda: session.screen.snapshot().seed == 11)
    assert session.close()
    assert session.error is None
    (path,) = recording.episodes
    with Episode.open(path) as episode:
        frames, actions, poses, header = episode.frames(), episode.actions, episode.poses, episode.header
    assert (header.environment, header.seed, header.map_seed) == ("WorldSim/Maze-v0", 4, 4)
    assert len(np.unique(actions, axis=0)) >= 5
    assert len(frames) == len(poses) > 16
    report = replay(tmp_path / "episodes", workers=1)
    assert report.exact, report.table()


def test_worlds_left_without_a_step_leave_no_episode(tmp_path: Path, make_world) -> None:
    """Guards against folders full of episodes of one frame after some presses of R."""
    world = make_world()
    recording = Recording(tmp_path)
    recording.begin(world, 0, world.reset(0))
    recording.begin(world, 1, world.reset(1))
    actions = np.array([[1, 0]])
    recording.append(actions, world.step(actions))
    recording.close()
    recording.append(actions, world.step(actions))
    recording.close()
    assert [path.name for path in tmp_path.iterdir()] == [path.name for path in recording.episodes]
    with Episode.open(recording.episodes[0]) as episode:
        assert (episode.header.seed, episode.actions.tolist()) == (1, [[0, 0], [1, 0]])


@pytest.mark.parametrize("name", ["walk.mp4", "walk.gif"])
def test_headless_video_has_its_frames(tmp_path: Path, name: str) -> None:
    """Guards against a video shorter than asked for, one that stands still, or a recording that differs."""
    recording = Recording(tmp_path / "episodes")
    path = tmp_path / name
    play_headless(EngineSimulation, HeadlessSettings(frames=21, out=path, seed=3), recording)
    if name.endswith(".gif"):
        with Image.open(path) as image:
            spans_ms = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
            assert (sum(spans_ms), image.size) == (2400, (512, 384))
    else:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert (len(frames), frames[0].shape) == (21, (384, 512, 3))
        assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 5
    with Episode.open(recording.episodes[0]) as episode:
        assert len(episode) == 21


def test_headless_cuts_the_last_section(tmp_path: Path, make_world) -> None:
    """Guards against videos longer than asked for when a section has several frames."""
    path = tmp_path / "walk.gif"
    play_headless(lambda: make_world(section_length=4), HeadlessSettings(frames=7, out=path, scale=1))
    with Image.open(path) as image:
        assert image.n_frames == 7


def test_routes_fit_their_world(make_world) -> None:
    """Guards against the explorer's actions in a world of another action space, and a route that differs each time."""
    space = make_world().action_space
    route, again = make_route(space, 5), make_route(space, 5)
    actions = np.stack([route.next() for _ in range(200)])
    assert isinstance(route, RandomRoute)
    space.validate(actions)
    assert np.array_equal(actions, [again.next() for _ in range(200)])
    assert len(np.unique(actions, axis=0)) == 9
