"""Routes in the engine: do they come back to the view they left, by the ways that they are named for?"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from envs.guide import Face, Go, Guide, Rest, Stop, Wander
from envs.maze import MazeEnv, MazeEnvSettings
from envs.maze_map import MazeMap, MazeMapSettings
from envs.route import Waypoint, place_in
from envs.routes import ASIDE, ASIDE_DEG, KINDS, STAY, Commuter, Route, RouteKind, Walked, draw_route
from envs.walker import Walker

STEPS = 1500
SEEDS = (1_000_102, 1_000_104)


@dataclass
class Walk:
    """One episode of routes."""

    maze_map: MazeMap
    frames: np.ndarray
    poses: np.ndarray
    rooms: np.ndarray
    actions: np.ndarray
    walked: list[Walked]


@pytest.fixture(scope="module")
def env() -> Iterator[MazeEnv]:
    env = MazeEnv(MazeEnvSettings(supersample=2, map=MazeMapSettings(twins=True)))
    yield env
    env.close()


def walk(env: MazeEnv, seed: int, kinds: tuple[RouteKind, ...] = KINDS, steps: int = STEPS) -> Walk:
    frame, info = env.reset(seed=seed, options={"map_seed": seed})
    assert env.maze_map is not None
    player = Commuter(env.maze_map, seed, kinds)
    frames, poses, rooms, actions = [frame], [info["pose"]], [info["room"]], []
    for _ in range(steps):
        actions.append(player.act(poses[-1]))
        frame, _, _, _, info = env.step(actions[-1])
        frames.append(frame)
        poses.append(info["pose"])
        rooms.append(info["room"])
    return Walk(env.maze_map, *(np.array(each) for each in (frames, poses, rooms, actions)), player.walked)


@pytest.fixture(scope="module")
def walks(env: MazeEnv) -> list[Walk]:
    return [walk(env, seed) for seed in SEEDS]


def sees_again(walk: Walk, route: Walked) -> np.ndarray:
    """Which frames before the return began show what its last frames show."""
    last = walk.poses[route.over - 2]
    before = walk.poses[: route.back]
    near = np.hypot(*(before[:, :2] - last[:2]).T) < 48.0
    return near & (np.abs((before[:, 3] - last[3] + 180.0) % 360.0 - 180.0) < 20.0)


def test_every_kind_is_walked_and_comes_back(walks: list[Walk]) -> None:
    """To a view seen since the route began, away from which the player has been; never-visited rooms are new."""
    kinds = set()
    for each in walks:
        for route in each.walked:
            kinds.add(route.kind)
            assert 0 < route.begun < route.back < route.over <= STEPS
            seen = sees_again(each, route)
            if route.kind == "never-visited":
                assert each.rooms[route.over - 2] not in each.rooms[: route.back]
                continue
            assert seen[route.begun :].any(), route
            assert not seen[route.back - 1], route
            stayed = each.poses[route.over - STAY + 4 : route.over]
            assert np.ptp(stayed[:, :2], axis=0).max() < 8.0
    assert kinds == set(KINDS)


@pytest.mark.parametrize("kind", ["out-and-back", "loop", "re-entry"])
def test_ways_home_are_those_that_the_kind_names(kind: RouteKind) -> None:
    """From room to room through doors; round trips by another door than the one out, others by the same rooms."""
    found = 0
    for seed in range(20):
        maze_map, rng = MazeMap.generate(seed), np.random.default_rng(seed)
        route = draw_route(kind, maze_map, 0, (), rng)
        if route is None:
            continue
        found += 1
        out, home = _first_out(route), route.stops[route.back]
        assert isinstance(out, Go)
        assert isinstance(home, Go)
        assert home.through is not None
        assert home.through[-1] == home.room == 0
        way = [out.room, *home.through]
        assert all(after in maze_map.neighbours[before] for before, after in pairwise(way))
        if kind == "out-and-back":
            assert out.through is not None
            assert (0, *out.through) == (*home.through[::-1], out.room)
        else:
            assert out.room in maze_map.neighbours[0]
            assert way[-2] != out.room
            assert 0 not in way[:-1]
    assert found >= 10


def test_half_of_the_views_come_back_to_are_beside_the_one_left() -> None:
    """Guards against a memory that only has to copy its best frame; beside is still a view of the same."""
    beside = []
    for seed in range(40):
        maze_map, rng = MazeMap.generate(seed), np.random.default_rng(seed)
        route = draw_route("out-and-back", maze_map, 0, (), rng)
        assert route is not None
        (go, face), (home, again) = route.stops[:2], route.stops[route.back : route.back + 2]
        assert isinstance(go, Go)
        assert isinstance(face, Face)
        assert isinstance(home, Go)
        assert isinstance(again, Face)
        apart = np.hypot(home.place.x - go.place.x, home.place.y - go.place.y)
        assert apart <= ASIDE[1] + 1e-6
        assert abs(again.yaw_deg - face.yaw_deg) <= ASIDE_DEG
        beside.append(apart > 0)
        assert beside[-1] == (again.yaw_deg != face.yaw_deg)
    assert 10 <= sum(beside) <= 30


def _first_out(route: Route) -> Stop:
    """Where it goes first after the view."""
    return [stop for stop in route.stops if isinstance(stop, Go)][1]


def test_a_guide_stands_where_it_is_told(env: MazeEnv) -> None:
    """Within the radius and a tap of the turn key, once it has stopped sliding; then it rests for good."""
    _, info = env.reset(seed=4, options={"map_seed": 4})
    assert env.maze_map is not None
    place = place_in(env.maze_map, 3, np.random.default_rng(0))
    goal = Waypoint(x=place.x, y=place.y, radius=20.0)
    guide = Guide(
        env.maze_map, 0, [Wander(steps=5), Go(room=3, place=goal), Face(yaw_deg=200.0), Rest(steps=2)]
    )
    for _ in range(300):
        action = guide.act(info["pose"])
        if guide.done:
            break
        *_, info = env.step(action)
    assert guide.done
    assert action.tolist() == guide.act(info["pose"]).tolist() == [0, 0, 0]
    x, y, _, yaw_deg = info["pose"]
    assert np.hypot(x - goal.x, y - goal.y) < 28.0
    assert abs(yaw_deg - 200.0) < 7.0


def test_an_errand_that_ended_in_another_room_does_not_break_the_next_ones_way() -> None:
    """A player that runs out of patience, or slides through a door, begins its way home elsewhere than planned."""
    maze_map = MazeMap.generate(1_000_102)
    for planned, first in ((i, j) for i in range(len(maze_map.rooms)) for j in maze_map.neighbours[i]):
        for room in range(len(maze_map.rooms)):
            walker = Walker(maze_map, np.random.default_rng(0))
            place = place_in(maze_map, room, np.random.default_rng(1))
            walker.see(place.x, place.y, 0.0)
            walker.go_to(planned, through=(first, planned))
            rooms = [room, *(maze_map.room_at(point.x, point.y) for point in walker.way)]
            assert all(b == a or b in maze_map.neighbours[a] for a, b in pairwise(rooms))
            assert first in rooms
            assert rooms[-1] == planned


def test_the_same_seed_walks_the_same(env: MazeEnv, walks: list[Walk]) -> None:
    again = walk(env, SEEDS[0], steps=300)
    np.testing.assert_array_equal(again.actions, walks[0].actions[:300])
    other = walk(env, SEEDS[0] + 1, steps=300)
    assert not np.array_equal(other.actions, again.actions)


def test_twins_look_alike_and_other_rooms_do_not(env: MazeEnv) -> None:
    """The same place in both, looking the same way: the frames differ only where a door shows another room."""
    for seed in range(1_000_000, 1_000_004):
        maze_map = MazeMap.generate(seed, MazeMapSettings(twins=True))
        assert maze_map.twins is not None
        frames = []
        other = next(room.index for room in maze_map.rooms if room.index not in maze_map.twins)
        first = maze_map.rooms[maze_map.twins[0]]
        place = place_in(maze_map, first.index, np.random.default_rng(seed))
        x, y = int(place.x), int(place.y)
        for index in (*maze_map.twins, other):
            room = maze_map.rooms[index]
            at = x + room.box[0] - first.box[0], y + room.box[1] - first.box[1]
            views = [
                env.reset(seed=0, options={"map_seed": seed, "spawn": (*at, yaw_deg)})[0]
                for yaw_deg in (0, 90, 180, 270)
            ]
            frames.append(np.stack(views).astype(np.float64))
        twin, strange = (np.abs(frames[0] - other).mean((1, 2, 3)) for other in frames[1:])
        assert twin.min() < 3.0
        assert twin.mean() < 0.5 * strange.mean()


def test_maps_without_twins_are_as_they_were() -> None:
    plain, twins = (MazeMap.generate(11, MazeMapSettings(twins=each)) for each in (False, True))
    assert plain.twins is None
    assert plain.rooms[0] == twins.rooms[0]
    assert len({room.wall for room in plain.rooms}) > len({room.wall for room in twins.rooms})


def test_a_map_without_loops_has_no_round_trips() -> None:
    """In a tree of rooms there is one way back."""
    maze_map = MazeMap.generate(3, MazeMapSettings(extra_doors=0.0))
    rng = np.random.default_rng(0)
    assert draw_route("loop", maze_map, 0, (), rng) is None
    assert draw_route("twins", maze_map, 0, (), rng) is None
    assert draw_route("never-visited", maze_map, 0, range(len(maze_map.rooms)), rng) is None
    route = draw_route("out-and-back", maze_map, 0, (), rng)
    assert route is not None
    assert isinstance(route.stops[route.back], Go)
    with pytest.raises(ValueError, match="no kinds of routes; give some of look-away, "):
        Commuter(maze_map, 0, ())
