"""Playing a world model: a tiny one with random weights, saved and loaded as any other."""

from pathlib import Path

import numpy as np
import pytest

from worldsim.action_space import ActionFactor, ActionSpace
from worldsim.build import build_models, random_openings
from worldsim.checkpoint import save_checkpoint
from worldsim.episode import Episode
from worldsim.play.imagined_simulation import ImaginedSimulation
from worldsim.play.recording import Recording
from worldsim.play.session import PlaySession, SessionSettings
from worldsim.presets import preset
from worldsim.world import WorldSettings

OPENING = 5
STEPS = 60


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = preset("tiny")
    factors = tuple(
        ActionFactor(
            name=f"factor {number}",
            choices=tuple(str(choice) for choice in range(size)),
            keys=tuple((f"{number}{choice}",) for choice in range(1, size)),
        )
        for number, size in enumerate(tiny.transformer.action_sizes)
    )
    models = build_models(tiny, ActionSpace(factors), seed=1)
    models.openings = random_openings(models, 3, OPENING)
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(models, folder)
    return folder


def test_an_imagined_world_is_played_remembered_and_recorded(checkpoint: Path, tmp_path: Path, wait) -> None:
    """Guards against frame numbers of the window that are not those of the memory, and recordings out of step."""
    recording = Recording(tmp_path)
    settings = WorldSettings(memory_mode="hybrid", denoising_steps=1)
    session = PlaySession(
        lambda: ImaginedSimulation(checkpoint, "cpu", settings),
        SessionSettings(seed=2, max_fps=0.0),
        recording,
    )
    session.start()
    session.press("01")
    wait(lambda: session.error or session.screen.snapshot().frame > STEPS, timeout_s=60)
    session.release("01")
    wait(lambda: session.error or session.screen.snapshot().phase == "waiting")
    snapshot = session.screen.snapshot()
    assert session.close()
    assert session.error is None
    assert snapshot.memory_frames == snapshot.frame + 1
    assert snapshot.memory_mode == "hybrid"
    assert snapshot.recalled
    assert set(snapshot.thumbnails) == {recalled.frame for recalled in snapshot.recalled}
    assert all(recalled.frame + recalled.age == snapshot.frame for recalled in snapshot.recalled)
    assert {"recall", "denoise", "decode"} <= set(snapshot.timings_s)
    (path,) = recording.episodes
    with Episode.open(path) as episode:
        frames, actions, header = episode.frames(), episode.actions, episode.header
    assert (header.environment, header.seed, header.map_hash) == ("worldsim", 2, "")
    assert header.settings["memory_mode"] == "hybrid"
    assert len(frames) == snapshot.memory_frames - OPENING + 1
    again = ImaginedSimulation(checkpoint, "cpu", settings)
    moments = [again.reset(2)] + [again.step(action[None].astype(np.int64)) for action in actions[1:6]]
    made = np.stack([moment.frames_u8[-1] for moment in moments])
    assert np.abs(made.astype(int) - frames[:6]).mean() < 1.0
    assert np.array_equal(again.frame_u8(OPENING - 1), moments[0].frames_u8[-1])


def test_memory_off_recalls_nothing(checkpoint: Path) -> None:
    """Guards against --memory that does not reach the world."""
    world = ImaginedSimulation(checkpoint, "cpu", WorldSettings(memory_mode="off", denoising_steps=1))
    world.reset(0)
    forward = np.array([[1] + [0] * (len(world.action_space.factors) - 1)])
    recalled = [world.step(forward).recalled for _ in range(40)]
    assert set(recalled) == {()}
    assert world.memory_mode == "off"
