"""Every evaluation from recorded maze episodes to its page, with a tiny model of random weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.build import build_models
from worldsim.checkpoint import load_checkpoint, save_checkpoint
from worldsim.episode import Episode, EpisodeWriter
from worldsim.evaluation import revisits
from worldsim.evaluation.autoencoder import AutoencoderEvaluation, run_autoencoder
from worldsim.evaluation.displaced import displaced_play
from worldsim.evaluation.drift import DriftEvaluation, choose_starts, run_drift
from worldsim.evaluation.drift_summary import has_collapsed
from worldsim.evaluation.fidelity import action_fidelity, fit_judge
from worldsim.evaluation.held_out import HeldOut
from worldsim.evaluation.inverse_dynamics import judged_moves
from worldsim.evaluation.revisits import RevisitEvaluation, run_revisits
from worldsim.evaluation.rollouts import Beginning
from worldsim.evaluation.starts import StartSettings
from worldsim.maze_episodes import make_maze, maze_settings
from worldsim.presets import tiny

THRESHOLDS = StartSettings(history=40, gap=30, ahead=3, spacing=8)


def revisit_settings(checkpoint: Path, data: Path, out: Path, **changes: object) -> RevisitEvaluation:
    settings = RevisitEvaluation(
        checkpoint=checkpoint,
        data=data,
        out=out,
        starts=4,
        controls=0,
        horizon=4,
        denoising_steps=1,
        batch=2,
        strips=2,
        thresholds=THRESHOLDS,
        device="cpu",
    )
    return replace(settings, **changes)


def test_autoencoder(checkpoint: Path, data: Path, tmp_path: Path):
    """Guards against scoring frames against other frames: the figure is worked out again from the episodes."""
    short = tmp_path / "short"
    frames = []
    for path in sorted(data.glob("*.h5")):
        with Episode.open(path) as episode:
            frames.append(episode.frames(0, 10))
            with EpisodeWriter(short / path.name, episode.header) as writer:
                for frame in frames[-1]:
                    writer.append(frame, np.zeros(3, np.int64))
    settings = AutoencoderEvaluation(checkpoint=checkpoint, data=short, out=tmp_path, frames=20, device="cpu")
    summary = run_autoencoder(settings)
    models = HeldOut(short).load_models(checkpoint, "cpu")
    truth = np.concatenate(frames)
    made = models.autoencoder.decode_frames(models.autoencoder.encode_frames(torch.from_numpy(truth)))
    errors = ((made.numpy().astype(float) - truth) ** 2).mean(axis=(1, 2, 3))
    assert summary["psnr"].mean == pytest.approx(np.mean(10 * np.log10(255**2 / errors)), abs=1e-3)
    assert json.loads((tmp_path / "autoencoder.json").read_text())["frames"] == 20
    assert (tmp_path / "autoencoder.png").exists()
    assert "PSNR dB" in (tmp_path / "autoencoder.md").read_text()


def test_revisits_resume(checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Guards against a rerun that begins anew, mixes in rows of other settings, or gives other figures."""
    settings = revisit_settings(checkpoint, data, tmp_path)
    first = run_revisits(settings)
    assert list(first["revisits"]["modes"]) == [
        *("off", "random", "cosine", "time", "place", "hybrid", "oracle"),
        *("copy last frame", "copy best recalled", "autoencoder"),
    ]
    assert first["revisits"]["starts"] == 4
    assert first["revisits"]["maps"] == 2
    assert "| hybrid | " in (tmp_path / "revisits.md").read_text()
    assert len(list(tmp_path.glob("revisit_*_of_4.png"))) == 2
    # What a kill after the first batch leaves behind.
    batches = sorted((tmp_path / f"partial-{first['run']}").glob("*.jsonl"))
    assert len(batches) == 2
    batches[1].unlink()
    made = []
    score_batch = revisits.score_batch

    def counted(*arguments: object) -> list[dict]:
        made.append(arguments)
        return score_batch(*arguments)

    monkeypatch.setattr(revisits, "score_batch", counted)
    resumed = run_revisits(settings)
    assert len(made) == 1
    assert json.dumps(resumed["revisits"]) == json.dumps(first["revisits"])
    run_revisits(replace(settings, seed=1, modes=("off",), strips=0))
    assert len(made) == 3


def test_memory_modes_differ_and_only_in_memory(checkpoint: Path, data: Path, tmp_path: Path):
    """Guards against a memory mode that is not passed on, and against noise that differs between modes."""
    settings = revisit_settings(checkpoint, data, tmp_path, modes=("off", "oracle"), strips=0)
    summary = run_revisits(settings)
    modes = summary["revisits"]["modes"]
    assert modes["off"]["psnr"] != modes["oracle"]["psnr"]
    assert modes["oracle"]["recall_hit_rate"] > 0.5
    assert modes["off"]["recall_hit_rate"] == 0.0
    # The player turns on the spot: what the oracle recalls is what comes, unlike the last frame.
    assert modes["copy best recalled"]["psnr"].mean > modes["copy last frame"]["psnr"].mean + 3
    held_out = HeldOut(data)
    models = held_out.load_models(checkpoint, "cpu")
    starts = revisits.choose_starts(settings, held_out, models.schedule.recent_frames)
    encoded = held_out.encode(models, {start.episode: start.step + 4 for start in starts[-1:]})
    with revisits.tqdm(disable=True) as progress:
        twice = replace(settings, modes=("off",))
        rows = revisits.score_batch(models, held_out, encoded, starts[-1:], twice, progress)
        again = revisits.score_batch(models, held_out, encoded, starts[-1:], twice, progress)
    assert rows == again


def test_no_starts_is_one_line(checkpoint: Path, data: Path, tmp_path: Path):
    """Guards against an empty table: the thresholds are named."""
    settings = revisit_settings(checkpoint, data, tmp_path, thresholds=StartSettings(gap=5000, ahead=3))
    with pytest.raises(ValueError, match=r"no revisit in 2 episodes of up to 120 steps .*gap 5000") as caught:
        run_revisits(settings)
    assert "\n" not in str(caught.value)


def test_a_wrong_memory_shows_another_map(checkpoint: Path, data: Path, tmp_path: Path):
    """Recall goes on as before, and finds what helps no more; the recent frames stay the world's own."""
    settings = revisit_settings(
        checkpoint, data, tmp_path, modes=("off", "hybrid", "wrong-map"), strips=1, batch=4
    )
    modes = run_revisits(settings)["revisits"]["modes"]
    assert modes["wrong-map"]["psnr"] != modes["hybrid"]["psnr"] != modes["off"]["psnr"]
    assert "recall_hit_rate" not in modes["wrong-map"]
    held_out = HeldOut(data)
    models = held_out.load_models(checkpoint, "cpu")
    starts = revisits.choose_starts(settings, held_out, models.schedule.recent_frames)
    encoded = held_out.encode(models, {start.episode: start.step + 4 for start in starts})
    first, other = (
        Beginning.of(held_out, encoded[start.episode], start.episode, start.step, 4, 0)
        for start in (starts[0], starts[-1])
    )
    assert starts[0].map_seed != starts[-1].map_seed
    [swapped, _] = revisits.with_wrong_memories([first, other], [starts[0], starts[-1]], 22)
    old = len(first.history) - 22
    assert torch.equal(swapped.history[old:], first.history[old:])
    assert torch.equal(swapped.history[: min(old, len(other.history))], other.history[:old])
    assert swapped.history_followed is first.history_followed
    with pytest.raises(ValueError, match="there is no wrong map; use a larger --batch"):
        revisits.with_wrong_memories([first], [starts[0]], 22)


def test_controls_are_apart(checkpoint: Path, data: Path, tmp_path: Path):
    """Guards against never-seen views counted as revisits."""
    thresholds = replace(THRESHOLDS, history=22, distance=30.0, angle_deg=5.0)
    settings = revisit_settings(
        checkpoint, data, tmp_path, controls=2, thresholds=thresholds, modes=("off", "hybrid"), strips=0
    )
    summary = run_revisits(settings)
    if summary["controls"] is not None:
        assert summary["controls"]["starts"] <= 2
        assert "never seen" in (tmp_path / "revisits.md").read_text()
    assert summary["revisits"]["starts"] == 4


def test_missing_folders(checkpoint: Path, data: Path, tmp_path: Path):
    """Guards against a traceback where a path is wrong."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_revisits(revisit_settings(tmp_path / "nowhere", data, tmp_path))
    with pytest.raises(FileNotFoundError, match="nothing"):
        run_drift(DriftEvaluation(checkpoint=checkpoint, data=tmp_path / "nothing", out=tmp_path))
    with pytest.raises(ValueError, match="ahead 12 lies beyond the horizon of 4"):
        revisit_settings(checkpoint, data, tmp_path, thresholds=StartSettings())
    with pytest.raises(ValueError, match="lack off"):
        revisit_settings(checkpoint, data, tmp_path, modes=("hybrid",))


def test_values_that_are_not_numbers(data: Path, checkpoint: Path, tmp_path: Path):
    """Guards against figures of a diverged model: NaN frames look like ordinary uint8."""
    with Episode.open(data / "episode_000000.h5") as episode:
        models = build_models(tiny(), episode.header.action_space, seed=0)
    for parameter in models.transformer.parameters():
        parameter.data.fill_(float("nan"))
    save_checkpoint(models, tmp_path / "broken")
    with pytest.raises(ValueError, match="not numbers"):
        run_revisits(revisit_settings(tmp_path / "broken", data, tmp_path, modes=("off",)))


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


def test_reports_name_the_denoising_steps(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Left to the checkpoint, they were given as "None"; a report must say what its figures were made with."""
    (tmp_path / "revisits").mkdir()
    run_revisits(
        revisit_settings(checkpoint, data, tmp_path / "revisits", denoising_steps=None, modes=("off",))
    )
    run_drift(drift_settings(checkpoint, data, tmp_path / "drift", denoising_steps=None))
    for report in (tmp_path / "revisits" / "revisits.md", tmp_path / "drift" / "drift.md"):
        assert "2 denoising steps" in report.read_text()
