"""The benchmark on one short episode of routes and a tiny model: what it finds, keeps, refuses and tells."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs.maze import MazeEnvSettings
from envs.maze_map import MazeMapSettings
from worldsim.benchmark import benchmark
from worldsim.benchmark.benchmark import BenchmarkSettings, run_benchmark
from worldsim.benchmark.contestant import (
    CopyLast,
    WorldContestant,
    checked_frame,
    load_contestant,
    load_contestants,
    run_contestant,
)
from worldsim.benchmark.covisible_recall import CovisibleRecallSettings, covisible_recall, summarise_recall
from worldsim.benchmark.latency import recall_latency
from worldsim.benchmark.own_history import (
    LEAD,
    SAME,
    OwnHistorySettings,
    OwnWorlds,
    own_returns,
)
from worldsim.benchmark.page import latency_parts
from worldsim.checkpoint import WorldModels
from worldsim.evaluation.held_out import HeldOut
from worldsim.evaluation.replayed_depth import replayed_depths
from worldsim.evaluation.revisits import choose_starts
from worldsim.evaluation.rollouts import Beginning, roll_out
from worldsim.evaluation.seen_pixels import seen_before, shown_by
from worldsim.evaluation.starts import Start
from worldsim.memory import Memory
from worldsim.recall import Recalled
from worldsim.record import RecordSettings, record
from worldsim.world import WorldSettings


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routes")
    maze = MazeEnvSettings(supersample=2, map=MazeMapSettings(twins=True))
    record(
        RecordSettings(
            out=folder, episodes=1, workers=1, steps=280, seed=128, held_out=True, env=maze,
            routes=("look-away", "never-visited"),
        )
    )  # fmt: skip
    return folder


@pytest.fixture
def settings(
    routes: Path, checkpoint: Path, lpips_weights: tuple[Path, Path], tmp_path: Path
) -> BenchmarkSettings:
    return BenchmarkSettings(
        checkpoint=checkpoint, out=tmp_path / "out", data=routes, starts=1, controls=1, samples=2, horizon=16,
        denoising_steps=1, modes=("off", "hybrid"), judge_steps=2, strips=1, device="cpu",
        own=OwnHistorySettings(routes=2, longest=100, modes=("off", "oracle")),
        contestants=("worldsim.benchmark.contestant:CopyLast",), lpips=lpips_weights,
    )  # fmt: skip


@pytest.fixture(scope="module")
def held_out(routes: Path) -> HeldOut:
    """What one test has encoded or replayed the next need not."""
    return HeldOut(routes, keep=True)


@pytest.fixture(scope="module")
def models(held_out: HeldOut, checkpoint: Path) -> WorldModels:
    return held_out.load_models(checkpoint, "cpu")


def starts_of(settings: BenchmarkSettings, held_out: HeldOut, recent: int = 22) -> list[Start]:
    assert settings.data is not None
    return choose_starts(replace(settings.revisits(settings.data), starts=99), held_out, recent)


def test_one_command_tells_all_of_it_and_a_second_run_makes_nothing(
    settings: BenchmarkSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against parts left out of the page, figures that a rerun changes, and work done twice."""
    first = run_benchmark(settings)
    assert first["true_history"]["revisits"]["starts"] == 1
    modes = first["true_history"]["revisits"]["modes"]
    copy = "CopyLast"
    for measure in ("psnr", "lpips"):
        assert modes[copy][measure] == pytest.approx(modes["copy last frame"][measure], abs=1e-4)
    assert first["own_history"]["modes"]["off"]["own_lpips"].mean > 0
    told = json.loads((settings.out / "benchmark.json").read_text())
    page = (settings.out / "benchmark.html").read_text()
    assert page.count(">LPIPS<") == 3  # of the returns, of views never seen, of own histories
    for name in (
        "In short",
        "True history",
        "Recall alone",
        "Own history",
        "By kind of route",
        "coverage@4",
        "100,000",
        copy,
    ):
        assert name in page, name
    assert page.count("data:image/png;base64,") == 1 + 1 + 1  # plots, a return, an own history
    assert 'src="' in page.replace('src="data:', "") or 'src="data:' in page

    def never(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(benchmark, "covisible_recall", never)
    monkeypatch.setattr(benchmark, "recall_latency", never)
    monkeypatch.setattr("worldsim.evaluation.revisits.score_batch", never)
    monkeypatch.setattr("worldsim.benchmark.own_history.roll_out", never)
    run_benchmark(settings)
    assert json.loads((settings.out / "benchmark.json").read_text()) == told


def test_recall_is_judged_by_pixels_as_brute_force_counts_them(
    settings: BenchmarkSettings, held_out: HeldOut, models: WorldModels
) -> None:
    """Coverage of the k best against the union by `seen_before`; nothing covers more than all old frames together."""
    starts = [start for start in starts_of(settings, held_out) if start.gap >= 0]
    rows = covisible_recall(models, held_out, starts, 16, CovisibleRecallSettings(ks=(1, 2)))
    assert {row["mode"] for row in rows} == {"random", "time", "cosine", "place", "hybrid", "oracle"}
    depths = replayed_depths(held_out, {0: len(held_out.poses[0])})[0]
    poses = torch.from_numpy(held_out.poses[0])
    for row in (each for each in rows if each["mode"] == "oracle"):
        old = row["time"] - models.schedule.recent_frames
        whole = seen_before(depths[row["time"]], poses[row["time"]], depths[:old], poses[:old])
        assert row["coverable"] == pytest.approx(float(whole.float().mean()), abs=0.03)
        assert row["covered@1"] <= row["covered@2"] <= row["coverable"]
        shares = (
            shown_by(depths[row["time"]], poses[row["time"]], depths[:old], poses[:old], 4)
            .flatten(1)
            .float()
            .mean(1)
        )
        assert row["could@2"] == min(2, int((shares >= 0.5).sum()))
        assert row["shown@2"] <= row["could@2"]
    figures = summarise_recall(rows, seed=0)
    assert figures["oracle"]["of_oracle@2"].mean == 1.0
    assert figures["oracle"]["coverage@2"].mean > figures["time"]["coverage@2"].mean


def test_recall_is_timed_with_as_many_frames_as_are_told(
    models: WorldModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a search of a memory that was not filled, of another mode, or with nothing to find."""
    searched = []
    recall = Memory.recall

    def watched(memory: Memory, query: np.ndarray, *rest: Any) -> list[Recalled]:
        found = recall(memory, query, *rest)
        searched.append((memory.mode, len(memory), len(found)))
        assert abs(float(np.linalg.norm(query)) - 1) < 1e-5
        return found

    monkeypatch.setattr(Memory, "recall", watched)
    told = recall_latency(models, sizes=(200, 600), queries=3, steps=2)
    assert told is not None
    wanted = models.schedule.recalled.frames
    assert searched[-8:] == [*[("hybrid", 200, wanted)] * 4, *[("hybrid", 600, wanted)] * 4]
    assert [row["frames"] for row in told["rows"]] == [200, 600]
    for row in told["rows"]:
        assert 0 < row["search_p50_ms"] <= row["search_p95_ms"]
        assert 0 < row["recall_p50_ms"] < row["step_p50_ms"]
        assert 0 < row["share"] < 1
    [text, table] = latency_parts(told)
    assert told["processor"] in text
    assert f"| 600 | {told['rows'][1]['search_p50_ms']:.2f} |" in table


def test_own_returns_are_seen_from_where_the_world_had_made_them_up(
    settings: BenchmarkSettings, held_out: HeldOut
) -> None:
    """Both frames of a pair are the world's own, from nearly the same pose, the first before the recent context."""
    starts = starts_of(settings, held_out)
    own = OwnHistorySettings(longest=100)
    returns = own_returns(starts, held_out.poses, held_out.rooms, 16, 22, own)
    assert returns
    for each in returns:
        poses = held_out.poses[each.start.episode]
        assert own.opening <= each.begun
        assert each.stop - each.begun <= own.longest
        for time, first in each.pairs:
            assert each.begun + LEAD <= first < each.start.step - 22
            assert time < each.stop
            assert np.hypot(*(poses[time] - poses[first])[:2]) < SAME.distance
            assert abs((poses[time, 3] - poses[first, 3] + 180) % 360 - 180) < SAME.angle_deg
    assert own_returns(starts, held_out.poses, held_out.rooms, 16, 22, replace(own, longest=10)) == []


def test_own_worlds_see_no_frame_but_their_opening(
    settings: BenchmarkSettings, held_out: HeldOut, models: WorldModels
) -> None:
    """Guards against true frames of the first visit in memory: the return would be copied from them."""
    returns = own_returns(
        starts_of(settings, held_out), held_out.poses, held_out.rooms, 16, 22, settings.own
    )[:1]
    worlds = OwnWorlds(
        models=models, held_out=held_out, rollouts=settings, settings=settings.own, judge=None,
        folder=settings.out, strips=settings.out, seed=0,
    )  # fmt: skip
    begun = worlds.begin(returns[0], 90)
    assert len(begun.history) == settings.own.opening
    length = returns[0].stop - returns[0].begun
    assert np.array_equal(begun.actions[:length], held_out.actions[0][returns[0].begun : returns[0].stop])
    assert not begun.actions[length:].any()


def test_our_contestant_makes_the_frames_of_our_batches(held_out: HeldOut, models: WorldModels) -> None:
    """Guards against an interface that plays another world than the one the benchmark measures."""
    encoded = held_out.encode(models, {0: 124})[0]
    beginning = Beginning.of(held_out, encoded, 0, 120, 4, seed=0)
    played = WorldSettings(memory_mode="hybrid", denoising_steps=1)
    [rollout] = roll_out(models, [beginning], played)
    ours = WorldContestant(models, played)
    ours.reset(encoded.frames_u8[:120].numpy(), held_out.actions[0][:120], beginning.seed)
    made = np.stack([ours.step(action) for action in held_out.actions[0][120:124]])
    assert np.abs(made.astype(int) - rollout.frames_u8.numpy().astype(int)).max() <= 1


class Broken(CopyLast):
    """Fails from its second start on."""

    def __init__(self) -> None:
        self.resets = 0

    def reset(self, frames_u8: np.ndarray, actions: np.ndarray, seed: int) -> None:
        super().reset(frames_u8, actions, seed)
        self.resets += 1

    def step(self, action: np.ndarray) -> np.ndarray:
        frame = super().step(action)
        return frame if self.resets < 2 else frame[:, :-8]


def test_a_contestant_that_breaks_loses_nothing(
    settings: BenchmarkSettings, held_out: HeldOut, tmp_path: Path
) -> None:
    """One line that names it and what it gave; the starts before are kept and not asked for again."""
    starts = starts_of(settings, held_out)[:3]
    cpu = torch.device("cpu")
    with pytest.raises(
        ValueError, match=r"contestant 'broken' gave uint8 of shape \(96, 120, 3\); .* \(96, 128, 3\)$"
    ):
        run_contestant("broken", Broken(), held_out, starts, 2, tmp_path, [0], cpu)
    again = Broken()
    rows = run_contestant("broken", again, held_out, starts, 2, tmp_path, [0], cpu)
    assert again.resets == 1
    assert [row["step"] for row in rows] == [start.step for start in starts]


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (np.full((2, 2, 3), np.nan), "gave values that are not numbers"),
        (np.zeros((2, 2, 3), np.float32), r"gave float32 of shape \(2, 2, 3\); a step gives uint8"),
        (torch.zeros(2, 2, 3), "gave a Tensor; a step gives a numpy array"),
    ],
)
def test_what_is_no_frame_is_named(frame: object, line: str) -> None:
    with pytest.raises(ValueError, match=f"contestant 'x' {line}"):
        checked_frame("x", frame, (2, 2, 3))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nowhere:make", "cannot be had .* name one as module:factory"),
        ("worldsim.errors", "cannot be had"),
        ("builtins:object", "has no method reset and no step"),
    ],
)
def test_a_contestant_that_is_none_is_named(name: str, line: str) -> None:
    with pytest.raises(ValueError, match=f"contestant '{name}' {line}"):
        load_contestant(name)


def test_rows_that_would_have_one_name_are_refused() -> None:
    """Guards against two models pooled in one row, and against one that takes the place of a memory mode."""
    copy = "worldsim.benchmark.contestant:CopyLast"
    assert list(load_contestants([copy], ["off"])) == ["CopyLast"]
    for names, taken in (([copy, copy], ["off"]), ([copy], ["CopyLast"])):
        with pytest.raises(
            ValueError, match="a row 'CopyLast' is there already; give its factory another name"
        ):
            load_contestants(names, taken)


def test_modes_that_others_are_compared_with_are_asked_for(settings: BenchmarkSettings) -> None:
    with pytest.raises(ValueError, match=r"^modes off cosine lack off or hybrid"):
        replace(settings, modes=("off", "cosine"))
    with pytest.raises(ValueError, match=r"^own\.modes off hybrid lack off or oracle"):
        OwnHistorySettings(modes=("off", "hybrid"))
