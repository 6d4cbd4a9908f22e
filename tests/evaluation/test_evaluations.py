"""Every evaluation from recorded maze episodes to its page, with a tiny model of random weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.build import build_models
from worldsim.checkpoint import save_checkpoint
from worldsim.episode import Episode, EpisodeWriter
from worldsim.evaluation import revisits
from worldsim.evaluation.autoencoder import AutoencoderEvaluation, run_autoencoder
from worldsim.evaluation.drift import DriftEvaluation, run_drift
from worldsim.evaluation.held_out import HeldOut
from worldsim.evaluation.revisits import RevisitEvaluation, run_revisits
from worldsim.evaluation.rollouts import Beginning
from worldsim.evaluation.starts import StartSettings
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


def test_the_report_names_the_denoising_steps(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Left to the checkpoint, they were given as "None"; a report must say what its figures were made with."""
    run_revisits(revisit_settings(checkpoint, data, tmp_path, denoising_steps=None, modes=("off",)))
    assert "2 denoising steps" in (tmp_path / "revisits.md").read_text()
