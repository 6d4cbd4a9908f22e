"""A player without a map, in the engine: does it get away, and back to the view that it left?"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from envs.maze import MazeEnv, MazeEnvSettings
from envs.rambler import PLAIN, Rambler, RamblerSettings, colour_spread, way_home


@pytest.fixture(scope="module")
def env() -> Iterator[MazeEnv]:
    env = MazeEnv(MazeEnvSettings(supersample=2))
    yield env
    env.close()


@pytest.mark.parametrize("seed", [1_000_004, 1_000_009, 1_000_013])
def test_it_goes_away_and_comes_back(env: MazeEnv, seed: int) -> None:
    """A film of a player that stays in its room, or is lost on the way back, says nothing of memory."""
    frame_u8, info = env.reset(seed=seed, options={"map_seed": seed})
    player, poses, rooms, phases = Rambler(RamblerSettings(away=80)), [info["pose"]], [info["room"]], []
    while not player.done:
        action = player.act(poses[-1][[0, 1, 3]], frame_u8)
        phases.append(player.phase)
        frame_u8, _, _, _, info = env.step(action)
        poses.append(info["pose"])
        rooms.append(info["room"])
        assert len(phases) < 400
    first, last = poses[0], poses[-1]
    assert np.hypot(*(last - first)[:2]) < 25.0
    assert abs((last[3] - first[3] + 180.0) % 360.0 - 180.0) < 5.0
    assert rooms[-1] == rooms[0]
    assert len(set(rooms)) >= 3
    assert phases.count("walk away") == 80
    headings = [float(pose[3]) for pose in poses[: phases.count("look round")]]
    assert {round(heading / 30.0) % 12 for heading in headings} == set(range(12))


def test_the_way_home_leaves_out_loops_and_nothing_else() -> None:
    """A way that cuts a corner leads into the wall that the player went round."""
    out = [(float(x), 0.0) for x in range(0, 200, 20)]
    loop = [(180.0, 20.0 * i) for i in range(1, 6)] + [(180.0, 20.0 * i) for i in range(5, 0, -1)]
    home = way_home([*out, *loop])
    assert home[-1] == out[0]
    assert all(place in out for place in home)
    assert all(np.hypot(x1 - x0, y1 - y0) < 50.0 for (x0, y0), (x1, y1) in pairwise(home))


def test_a_wall_that_fills_the_view_is_told_from_a_room() -> None:
    """Else the player walks along walls, and the film shows nothing else."""
    rng = np.random.default_rng(0)
    wall = rng.integers(90, 150, (96, 128, 3), dtype=np.uint8)
    room = wall.copy()
    room[60:] //= 3
    assert colour_spread(wall) < PLAIN < colour_spread(room)


@pytest.mark.parametrize("name", ["away", "stand"])
def test_no_walk_is_refused(name: str) -> None:
    """Without steps away or a stand there is no return to look at."""
    with pytest.raises(ValueError, match=f"{name} 0 is not at least 1"):
        RamblerSettings(**{name: 0})
