"""Starts on recorded routes: at the returns, with the gaps that the poses tell, and scored by kind."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from envs.maze import MazeEnvSettings
from envs.maze_map import MazeMapSettings
from envs.routes import KINDS
from worldsim.evaluation.held_out import HeldOut
from worldsim.evaluation.revisits import RevisitEvaluation, choose_starts, run_revisits
from worldsim.evaluation.route_starts import recorded_routes, route_start, walked_routes
from worldsim.evaluation.starts import Start, same_view
from worldsim.record import RecordSettings, record


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routes")
    maze = MazeEnvSettings(supersample=2, map=MazeMapSettings(twins=True))
    record(
        RecordSettings(
            out=folder, episodes=2, workers=1, steps=1500, seed=102, held_out=True, env=maze, routes=KINDS
        )
    )
    return folder


def settings_of(routes: Path, checkpoint: Path, out: Path, **changes: object) -> RevisitEvaluation:
    settings = RevisitEvaluation(
        checkpoint=checkpoint, data=routes, out=out, denoising_steps=1, device="cpu", strips=0, horizon=16,
        modes=("off", "hybrid", "oracle"),
    )  # fmt: skip
    return replace(settings, **changes)


def test_starts_lie_before_returns(routes: Path, tmp_path: Path) -> None:
    """The view `ahead` of a start was last shown `gap` steps before, and the start has a history and a horizon."""
    held_out, settings = HeldOut(routes), settings_of(routes, tmp_path, tmp_path)
    assert recorded_routes(routes) == KINDS
    starts = choose_starts(settings, held_out, recent=22)
    assert {start.kind for start in starts} >= {"look-away", "out-and-back", "twins", "never-visited"}
    for start in starts:
        poses, rooms = held_out.poses[start.episode], held_out.rooms[start.episode]
        view = start.step + settings.thresholds.ahead
        assert start.step >= settings.thresholds.history
        assert start.step + settings.horizon <= len(poses)
        if start.kind == "never-visited":
            assert start.gap == -1
            assert rooms[view] not in rooms[:view]
            continue
        shown = same_view(poses, rooms, view, replace(settings.thresholds, distance=96.0, angle_deg=40.0))
        assert shown[view - start.gap]
        assert start.gap > (5 if start.kind == "look-away" else 22)


def test_few_starts_are_spread_over_maps(routes: Path, tmp_path: Path) -> None:
    held_out, settings = HeldOut(routes), settings_of(routes, tmp_path, tmp_path, starts=2, controls=0)
    starts = choose_starts(settings, held_out, recent=22)
    assert len({start.map_seed for start in starts}) == len(starts) == 2
    assert starts == choose_starts(settings, held_out, recent=22)


def test_an_episode_that_leaves_its_routes_is_refused(routes: Path) -> None:
    """Figures by kind would be of routes that nobody walked."""
    held_out = HeldOut(routes)
    header, poses, actions = held_out.headers[0], held_out.poses[0], held_out.actions[0]
    walked = walked_routes(header, poses, actions, KINDS)
    assert len(walked) >= 3
    assert all(first.over <= second.begun for first, second in pairwise(walked))
    broken = actions.copy()
    broken[200] = (broken[200] + 1) % 3
    with pytest.raises(ValueError, match=r"seed 1000102 leaves its routes at step 200: .* record it anew"):
        walked_routes(header, poses, broken, KINDS)


def test_a_route_that_never_came_back_has_no_start(routes: Path, tmp_path: Path) -> None:
    held_out, settings = HeldOut(routes), settings_of(routes, tmp_path, tmp_path)
    poses, rooms = held_out.poses[0], held_out.rooms[0]
    walked = walked_routes(held_out.headers[0], poses, held_out.actions[0], KINDS)
    route = next(each for each in walked if each.kind == "out-and-back")

    def start(poses: np.ndarray, horizon: int = 16) -> Start | None:
        return route_start(route, 0, 7, poses, rooms, horizon, settings.thresholds)

    assert start(poses) is not None
    assert start(poses, horizon=1500) is None
    elsewhere = poses.copy()
    elsewhere[: route.back, 0] += 5000.0
    assert start(elsewhere) is None


def test_figures_by_kind_and_twins(checkpoint: Path, tmp_path: Path) -> None:
    """Every kind has a row of its own; of frames recalled from twins the share of the right one is told."""
    maze = MazeEnvSettings(supersample=2, map=MazeMapSettings(twins=True))
    few = RecordSettings(
        out=tmp_path / "few", episodes=1, workers=1, steps=320, seed=109, held_out=True, env=maze,
        routes=("twins", "never-visited"),
    )  # fmt: skip
    record(few)
    settings = settings_of(few.out, checkpoint, tmp_path, starts=9, controls=1, covisible=True)
    summary = run_revisits(settings)
    pixels = summary["revisits"]["modes"]
    assert pixels["autoencoder"]["psnr_seen_last"].mean > 0
    kinds = summary["by_kind"]
    assert sum(each["starts"] for each in kinds.values()) == summary["revisits"]["starts"]
    assert summary["controls"]["starts"] == 1
    told = kinds["twins"]["modes"]
    assert told["oracle"]["twins_told_apart"] > 0.9
    assert told["off"].get("twins_told_apart") is None
    page = (tmp_path / "revisits.md").read_text()
    assert "## Pixels that history has shown" in page
    assert "## By kind of route" in page
    assert "| twins | " in page
    assert f"| oracle | {told['oracle']['twins_told_apart']:.2f} |" in page
