"""Starts on recorded routes: where each came back to the view that it had left."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Int64

from envs.maze_map import MazeMap
from envs.routes import Commuter, RouteKind, Walked
from worldsim.episode_format import EpisodeHeader
from worldsim.evaluation.starts import Start, StartSettings, same_view, spread_over_maps
from worldsim.maze_episodes import maze_settings


def recorded_routes(folder: Path) -> tuple[RouteKind, ...]:
    """Kinds of routes that the folder's episodes walk; none where they explore, or nothing tells."""
    try:
        told = json.loads((folder / "recording.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return ()
    return tuple(told.get("routes", ()))


def walked_routes(
    header: EpisodeHeader,
    poses: Float[np.ndarray, "time 4"],
    actions: Int64[np.ndarray, "time factor"],
    kinds: Sequence[RouteKind],
) -> list[Walked]:
    """The routes of one episode, walked again from its poses. ValueError if its player was another one."""
    player = Commuter(map_of(header), header.seed, kinds)
    for step in range(1, len(poses)):
        if (player.act(poses[step - 1]) != actions[step]).any():
            raise ValueError(
                f"the episode of seed {header.seed} leaves its routes at step {step}: recorded by another version; "
                "record it anew"
            )
    return player.walked


def map_of(header: EpisodeHeader) -> MazeMap:
    """The map that an episode was recorded on."""
    return MazeMap.generate(header.map_seed, maze_settings(header).map)


def route_start(
    route: Walked,
    episode: int,
    map_seed: int,
    poses: Float[np.ndarray, "time 4"],
    rooms: Int[np.ndarray, " time"],
    horizon: int,
    settings: StartSettings,
) -> Start | None:
    """The start `ahead` steps before the return first shows what the route ends with, or a room never seen before.

    None where the route never showed that view before, or where it lies too near the episode's beginning or end.
    """
    shown = same_view(poses, rooms, route.over - 1, settings)
    before = np.flatnonzero(shown[route.begun : route.back])
    unseen = route.kind == "never-visited"
    if unseen:
        shown = rooms == rooms[route.over - 1]
    view = route.back + int(shown[route.back :].argmax())
    start = view - settings.ahead
    if start < settings.history or start + horizon > len(poses) or unseen == bool(shown[: route.back].any()):
        return None
    if not unseen and not len(before):
        return None
    gap = -1 if unseen else view - route.begun - int(before[-1])
    return Start(episode=episode, step=start, map_seed=map_seed, gap=gap, kind=route.kind)


def find_route_starts(
    headers: Sequence[EpisodeHeader],
    poses: Sequence[Float[np.ndarray, "_ 4"]],
    rooms: Sequence[Int[np.ndarray, " _"]],
    actions: Sequence[Int64[np.ndarray, "_ factor"]],
    kinds: Sequence[RouteKind],
    *,
    count: int,
    controls: int,
    horizon: int,
    seed: int,
    settings: StartSettings,
) -> list[Start]:
    """Up to `count` revisits and `controls` views never seen, spread over maps; the same seed chooses the same.

    Raises:
        ValueError: an episode leaves its routes, or none of them comes back within its episode.
    """
    found: list[Start] = []
    for episode, header in enumerate(headers):
        for route in walked_routes(header, poses[episode], actions[episode], kinds):
            start = route_start(
                route, episode, header.map_seed, poses[episode], rooms[episode], horizon, settings
            )
            if start is not None:
                found.append(start)
    revisits = [start for start in found if start.gap >= 0]
    if not revisits:
        longest = max((len(each) for each in poses), default=0)
        raise ValueError(
            f"none of the routes ({', '.join(kinds)}) in {len(poses)} episodes of up to {longest} steps comes back; "
            "record longer episodes"
        )
    rng = np.random.default_rng([seed, 2])
    unseen = [start for start in found if start.gap < 0]
    return spread_over_maps(revisits, count, rng) + spread_over_maps(unseen, controls, rng)
