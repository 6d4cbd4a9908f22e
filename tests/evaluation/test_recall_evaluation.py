"""Recall alone, against what worlds in play recall."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.evaluation.held_out import HeldOut, encode
from worldsim.evaluation.recall import RecallEvaluation, run_recall
from worldsim.evaluation.starts import StartSettings, find_starts, same_view
from worldsim.recall import MemoryMode
from worldsim.world import World, WorldSettings, step_worlds

THRESHOLDS = StartSettings(history=40, gap=30, ahead=3, spacing=8)


@pytest.fixture(scope="module")
def summary(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("recall")
    settings = RecallEvaluation(
        checkpoint=checkpoint, data=data, out=out, starts=4, horizon=4, heading_weights=(0.0, 5.0),
        position_weights=(0.0,), thresholds=THRESHOLDS, device="cpu",
    )  # fmt: skip
    made = run_recall(settings)
    written = json.loads((out / "recall.json").read_text())
    assert written["scores"]["oracle"]["hit"]["mean"] == pytest.approx(made["scores"]["oracle"]["hit"].mean)
    assert "| hybrid |" in (out / "recall.md").read_text()
    return made


@pytest.mark.parametrize("mode", ["cosine", "place", "hybrid", "oracle"])
def test_recall_alone_is_recall_at_play(
    summary: dict, checkpoint: Path, data: Path, mode: MemoryMode
) -> None:
    """Every step is asked of a world that has seen the true frames before it: the same frames must come."""
    held_out = HeldOut(data)
    models = held_out.load_models(checkpoint, "cpu")
    starts = find_starts(
        held_out.poses, held_out.rooms, held_out.map_seeds, count=4, horizon=4, recent=22, seed=0, settings=THRESHOLDS
    )  # fmt: skip
    hits = []
    for start in starts:
        actions, poses = held_out.actions[start.episode], held_out.poses[start.episode]
        latents = encode(models.autoencoder, held_out.read(start.episode, np.arange(start.step + 4)))
        true = torch.from_numpy(poses[:, [0, 1, 3]])
        for time in range(start.step, start.step + 4):
            seen = same_view(poses, held_out.rooms[start.episode], time, THRESHOLDS)
            if not seen[: start.step].any():
                continue
            world = World(models, WorldSettings(memory_mode=mode, denoising_steps=1))
            past = true[:time] if mode == "oracle" else None
            world.observe(latents[:time], torch.from_numpy(actions[:time]), true_poses=past)
            told = torch.from_numpy(actions[None, time : time + 1])
            section = step_worlds([world], told, true[None, time : time + 1])[0]
            recalled = [pick.frame for pick in section.recalled]
            hits.append((bool(seen[recalled].any()), bool(seen[recalled[0]]), seen[recalled].sum() / 4))
    assert summary["steps"] == len(hits) >= 8
    found = summary["scores"][mode]
    figures = [found[name].mean for name in ("hit", "best", "precision")]
    np.testing.assert_allclose(figures, np.mean(hits, axis=0), atol=1e-6)


def test_true_poses_find_every_view_and_headings_help(summary: dict) -> None:
    """A player who turns on the spot is where they were whenever they look the same way: headings alone tell."""
    scores = summary["scores"]
    assert scores["oracle"]["hit"].mean == 1
    assert scores["heading 5, position 0"]["hit"].mean == 1
    assert scores["heading 0, position 0"]["hit"].mean < 1
    assert max(summary["odometer_error"]["30"]) < 1  # nobody moves, and the odometer trusts the actions
    assert max(summary["offset_error"]["told"]) < 1
    assert (
        summary["offset_error"]["registered"] != summary["offset_error"]["told"]
    )  # random weights register at random
