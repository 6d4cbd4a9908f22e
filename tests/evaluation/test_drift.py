"""Drift from recorded maze episodes to its page, with a tiny model of random weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.checkpoint import load_checkpoint
from worldsim.episode import Episode
from worldsim.evaluation import drift
from worldsim.evaluation.displaced import displaced_play
from worldsim.evaluation.drift import DriftEvaluation, choose_starts, run_drift
from worldsim.evaluation.drift_summary import has_collapsed
from worldsim.evaluation.fidelity import action_fidelity, fit_judge
from worldsim.evaluation.held_out import HeldOut
from worldsim.evaluation.inverse_dynamics import judged_moves
from worldsim.evaluation.rollouts import Beginning, roll_out
from worldsim.maze_episodes import make_maze, maze_settings


def drift_settings(checkpoint: Path, data: Path, out: Path, **changes: object) -> DriftEvaluation:
    settings = DriftEvaluation(
        checkpoint=checkpoint,
        data=data,
        out=out,
        rollouts=3,
        frames=20,
        history=30,
        denoising_steps=1,
        strips=2,
        judge_steps=0,
        device="cpu",
    )
    return replace(settings, **changes)


def test_drift(checkpoint: Path, data: Path, tmp_path: Path):
    """Guards against comparing other steps, a wrong share, or a collapse that goes unseen or is seen in real play."""
    summary = run_drift(drift_settings(checkpoint, data, tmp_path))
    assert summary["rollouts"] == 3
    first, last = [], []
    for start in summary["starts"]:
        with Episode.open(data / start["episode"]) as episode:
            frames = episode.frames(start["step"], start["step"] + 20)
        luma = (frames @ np.array([0.299, 0.587, 0.114])).mean(axis=(1, 2)) / 255
        first.append(luma[:3].mean())
        last.append(luma[-3:].mean())
    assert len({each["episode"] for each in summary["starts"]}) == 2
    real = summary["metrics"]["brightness"]["real"]
    assert real["first"] == pytest.approx(np.mean(first), abs=1e-5)
    assert real["last"] == pytest.approx(np.mean(last), abs=1e-5)
    assert real["drift"].mean == pytest.approx(np.mean(np.abs(np.subtract(first, last))), abs=1e-5)
    assert real["ratio_to_real_last"].mean == pytest.approx(1.0)
    assert summary["collapsed"]["real"] == 0
    assert len(summary["sharpness_by_frame"]["model"]) == 20
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {
        "drift.json",
        "drift.md",
        "drift_sharpness.png",
        "drift_01_of_3.png",
        "drift_03_of_3.png",
    }
    json.loads((tmp_path / "drift.json").read_text())


def test_a_drift_that_was_killed_goes_on(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Guards against rollouts that are lost, made twice or taken from other settings; a torn file is made anew."""
    straight = run_drift(drift_settings(checkpoint, data, tmp_path / "straight", batch=2))
    assert not list((tmp_path / "straight").glob("partial-*"))
    settings = drift_settings(checkpoint, data, tmp_path / "killed", batch=2)
    with monkeypatch.context() as killed:
        killed.setattr(drift, "describe_all", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_drift(settings)
    kept = sorted((tmp_path / "killed").glob("partial-*/rollouts-*.safetensors"))
    assert len(kept) == 2
    second = kept[1]
    second.write_bytes(second.read_bytes()[:-100])
    made: list[int] = []

    def counted(models, beginnings, *others):
        made.append(len(beginnings))
        return roll_out(models, beginnings, *others)

    monkeypatch.setattr(drift, "roll_out", counted)
    resumed = run_drift(settings)
    assert made == [1]
    for same in ("metrics", "features", "collapsed", "starts"):
        assert resumed[same] == straight[same]
    assert (
        drift_settings(checkpoint, data, tmp_path, batch=2).run
        != drift_settings(checkpoint, data, tmp_path, seed=1, batch=2).run
    )
    with pytest.raises(ValueError, match="batch 0 is too small"):
        drift_settings(checkpoint, data, tmp_path, batch=0)


def interrupt(*anything: object) -> None:
    raise KeyboardInterrupt


def test_drift_judges_features_actions_and_keeps_clips(checkpoint: Path, data: Path, tmp_path: Path):
    """Figures without a value a frame, by rollout where variants are compared, and clips for people."""
    summary = run_drift(drift_settings(checkpoint, data, tmp_path, judge_steps=30, clips=2))
    features = summary["features"]
    assert features["model"]["last"] > features["real"]["last"] > 0
    for name in ("turns", "moves"):
        for when in ("all", "first", "last"):
            assert 0 <= summary["action_fidelity"][name]["model"][when].mean <= 1
    assert summary["action_fidelity"]["turns"]["real"]["all"].mean > 0.3
    assert summary["seconds_a_frame"] > 0
    last = summary["by_rollout"]["sharpness"]["model"]["last"]
    assert np.mean(last) == pytest.approx(summary["metrics"]["sharpness"]["model"]["last"])
    assert {path.name for path in (tmp_path / "clips").iterdir()} == {"000.mp4", "001.mp4"}
    page = (tmp_path / "drift.md").read_text()
    assert "feature distance to real play, model" in page
    assert "steps as told" in page


def test_frames_that_do_what_they_are_told_agree(checkpoint: Path, data: Path):
    """A source without the frame before the first must be told the step of its second frame, not of its first."""
    held_out = HeldOut(data)
    judge = fit_judge(held_out, set(), 2, torch.device("cpu"), 0)
    frames_u8 = held_out.read(0, np.arange(40))
    told = judged_moves(judge, frames_u8)  # So every step is as told.
    shown = {"whole": [frames_u8], "cut": [frames_u8[1:]]}
    figures = action_fidelity(judge, [told], shown, np.array([7]), 5, 0)
    for name in ("turns", "moves"):
        assert figures[name]["whole"]["all"].mean == figures[name]["cut"]["all"].mean == 1
    told[0, 0] = -90.0 if told[0, 0] > 0 else 90.0
    figures = action_fidelity(judge, [told], shown, np.array([7]), 5, 0)
    assert figures["turns"]["whole"]["all"].mean == pytest.approx(38 / 39)
    assert figures["turns"]["cut"]["all"].mean == 1


@pytest.mark.parametrize("walked", [0, 5])
def test_standing_still_is_compared_with_one_frame(checkpoint: Path, data: Path, tmp_path: Path, walked: int):
    """Walking hides what grows or flickers: nothing of real play may move, nor any action after it reach the model."""
    summary = run_drift(drift_settings(checkpoint, data, tmp_path, still_after=walked))
    assert summary["metrics"]["motion"]["real"]["last"] == 0
    sharpness = summary["metrics"]["sharpness"]["real"]
    assert sharpness["first"] == sharpness["last"] > 0
    assert summary["metrics"]["motion"]["model"]["last"] > 0
    assert len(summary["sharpness_by_frame"]["model"]) == int(summary["settings"]["frames"])
    assert f"standing still after {walked} frames" in (tmp_path / "drift.md").read_text()
    held_out = HeldOut(data)
    encoded = held_out.encode(load_checkpoint(checkpoint, "cpu"), {0: 60})
    walking = Beginning.of(held_out, encoded[0], 0, 40, 20, 0)
    beginning = walking.stopped(walked)
    np.testing.assert_array_equal(beginning.actions[:walked], walking.actions[:walked])
    assert not beginning.actions[walked:].any()
    assert beginning.actions.shape == (20, 3)
    there = walking.true_coming_poses[4] if walked else walking.true_history_poses[-1]
    assert torch.equal(beginning.true_coming_poses[[max(0, walked - 1), 19]], there.expand(2, 3))


def test_displaced_play_takes_the_steps_elsewhere(checkpoint: Path, data: Path, tmp_path: Path):
    """The game's own frames of another episode's place, stepped through by hand."""
    settings = drift_settings(checkpoint, data, tmp_path, displaced=True, judge_steps=5)
    summary = run_drift(settings)
    assert summary["metrics"]["sharpness"]["displaced"]["last"] > 0
    assert set(summary["action_fidelity"]["turns"]) == {"model", "real", "displaced"}
    assert "turns, real play, the same steps elsewhere" in (tmp_path / "drift.md").read_text()
    assert "the same steps elsewhere" in (tmp_path / "drift.md").read_text()
    held_out = HeldOut(data)
    starts = choose_starts(held_out, settings)
    first, second = starts[:2]
    assert first[0] != second[0]
    with Episode.open(held_out.paths[second[0]]) as episode:
        header, known = episode.header, episode.actions[1 : second[1]].astype(np.int64)
        env = make_maze(maze_settings(header))
        before = env.reset(seed=header.seed, options={"map_seed": header.map_seed})[0]
        for action in known:
            before = env.step(action)[0]
        np.testing.assert_array_equal(before, episode.frame_at(np.array([second[1] - 1]))[0])
    steps = held_out.actions[first[0]][first[1] : first[1] + 20]
    frames = np.stack([env.step(action)[0] for action in steps])
    env.close()
    np.testing.assert_array_equal(displaced_play(held_out, starts, 20)[0].numpy(), frames)


def test_displaced_play_needs_another_episode(checkpoint: Path, data: Path, tmp_path: Path):
    """One rollout alone has nowhere else to be; and who stands still takes no steps."""
    with pytest.raises(ValueError, match="leave out --displaced"):
        run_drift(drift_settings(checkpoint, data, tmp_path, displaced=True, rollouts=1))
    with pytest.raises(ValueError, match="leave out --still-after or --displaced"):
        drift_settings(checkpoint, data, tmp_path, displaced=True, still_after=3)


def test_drift_needs_long_episodes(checkpoint: Path, data: Path, tmp_path: Path):
    """Guards against rollouts past the end of an episode."""
    with pytest.raises(ValueError, match="longest of 2 episodes has 120 steps"):
        run_drift(drift_settings(checkpoint, data, tmp_path, frames=100))


def test_collapse_is_found():
    """Guards against missing a rollout that ends flat, or counting one that was flat only in the beginning."""
    real = np.full((2, 20), 0.2)
    ends_flat, begins_flat = np.full(20, 0.2), np.full(20, 0.2)
    ends_flat[10:] = 0.01
    begins_flat[:10] = 0.01
    assert has_collapsed(np.stack([ends_flat, begins_flat]), real).tolist() == [True, False]


def test_the_report_names_the_denoising_steps(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Left to the checkpoint, they were given as "None"; a report must say what its figures were made with."""
    run_drift(drift_settings(checkpoint, data, tmp_path, denoising_steps=None))
    assert "2 denoising steps" in (tmp_path / "drift.md").read_text()
