"""The imagined world as a gymnasium environment, on tiny random weights."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from worldsim.action_space import ActionFactor, ActionSpace
from worldsim.build import build_models, random_openings
from worldsim.checkpoint import WorldModels
from worldsim.neural_env import NeuralWorldEnv
from worldsim.presets import preset
from worldsim.world import World

SPACE = ActionSpace(
    tuple(
        ActionFactor(name=name, choices=("none", "one", "other"), keys=((f"{name}1",), (f"{name}2",)))
        for name in ("move", "turn", "strafe")
    )
)
WALK = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 2], [2, 2, 1]])


@pytest.fixture(scope="module")
def models() -> WorldModels:
    """Weights whose actions matter: fresh ones end in a layer of zeros, which would show the noise alone."""
    models = build_models(preset("tiny"), SPACE)
    models.openings = random_openings(models, count=4, frames=40)
    for layer in (models.transformer.final, models.transformer.modulation):
        layer.weight.data.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    return models


def walk(env: gymnasium.Env, actions: np.ndarray, **reset) -> tuple[np.ndarray, list[dict]]:
    """Frames, the first one of the reset included, and infos."""
    frame, info = env.reset(**reset)
    frames, infos = [frame], [info]
    for action in actions:
        frame, reward, terminated, _, info = env.step(action)
        assert (reward, terminated) == (0.0, False)
        frames.append(frame)
        infos.append(info)
    return np.stack(frames), infos


def test_gymnasium_finds_nothing_wrong(models: WorldModels) -> None:
    """Guards the whole contract (spaces, determinism, fresh data, render, close); warnings are errors here."""
    env = gymnasium.make("WorldSim/NeuralWorld-v0", models=models, render_mode="rgb_array")
    check_env(env.unwrapped)


def test_frames_are_those_of_the_world(models: WorldModels) -> None:
    """An environment that loses the opening, or is one action behind, would still pass gymnasium's checks."""
    frames, infos = walk(NeuralWorldEnv(models=models), WALK, seed=3)
    world = World(models)
    expected = [world.reset(3)[-1], *(world.step(action[None]).frames_u8[-1] for action in WALK)]
    np.testing.assert_array_equal(frames, np.stack(expected))
    assert [info["memory_frames"] for info in infos] == [40, 41, 42, 43, 44]
    assert [info["world_seed"] for info in infos] == [3] * 5


def test_seed_and_actions_make_the_world(models: WorldModels) -> None:
    """A reset that keeps anything of the world before, or ignores seed or actions, shows other frames."""
    env = NeuralWorldEnv(models=models)
    first, _ = walk(env, WALK, seed=1)
    other, _ = walk(env, WALK, options={"world_seed": 2})
    again, infos = walk(env, WALK, seed=5, options={"world_seed": 1})
    np.testing.assert_array_equal(first, again)
    assert infos[-1]["world_seed"] == 1
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, walk(env, WALK[::-1], seed=1)[0])


def test_info_tells_what_was_recalled(models: WorldModels) -> None:
    """Ages and numbers that do not add up to the frame being made would mark the wrong frames as remembered."""
    env = NeuralWorldEnv(models=models)
    _, infos = walk(env, WALK, seed=0)
    slots = models.schedule.recalled.frames
    assert infos[0]["recalled_frames"].size == 0
    for info in infos[1:]:
        assert 1 <= info["recalled_frames"].size <= slots
        made = info["memory_frames"] - 1
        np.testing.assert_array_equal(info["recalled_frames"] + info["recalled_ages"], made)
    assert env.latency_s > 0
    _, infos = walk(NeuralWorldEnv(models=models, memory_mode="off"), WALK, seed=0)
    assert all(info["recalled_frames"].size == 0 for info in infos)


def test_action_is_held_for_a_whole_section() -> None:
    """With sections of several frames: all of them act, and the last one is what is seen."""
    tiny = preset("tiny")
    sizes = dataclasses.replace(
        tiny, transformer=dataclasses.replace(tiny.transformer, schedule="td_f16k4f4k2f2k1_r4k1_g3")
    )
    sizes = dataclasses.replace(sizes, descriptor=dataclasses.replace(tiny.descriptor, steps=11))
    models = build_models(sizes, SPACE)
    models.openings = random_openings(models, count=1, frames=30)
    env = NeuralWorldEnv(models=models)
    frames, infos = walk(env, WALK[:2], seed=0)
    assert [info["memory_frames"] for info in infos] == [30, 33, 36]
    np.testing.assert_array_equal(env.world.memory.recent(6)[1], np.repeat(WALK[:2], 3, axis=0))
    # Memory keeps latents in float16: a level of a colour may round the other way.
    np.testing.assert_allclose(frames[-1].astype(int), env.world.frame_u8(35).astype(int), atol=1)
    assert np.abs(frames[-1].astype(int) - env.world.frame_u8(34).astype(int)).max() > 1


def test_truncates_at_max_steps_and_starts_over(models: WorldModels) -> None:
    """A count that is not set back would truncate every world after the first at once."""
    env = NeuralWorldEnv(models=models, max_steps=2)
    for seed in (0, 1):
        env.reset(seed=seed)
        assert [env.step(WALK[0])[3] for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_steps": 0}, "max_steps 0"),
        ({"memory_mode": "oracle"}, "evaluation"),
        ({"checkpoint": "somewhere"}, "somewhere"),
        ({"render_mode": "human"}, "human"),
        ({"denoising_steps": 0}, "denoising steps"),
    ],
)
def test_bad_settings_are_named(models: WorldModels, settings: dict, words: str) -> None:
    """A setting that is passed over in silence is found only after a long run."""
    with pytest.raises(ValueError, match=words):
        NeuralWorldEnv(models=models, **settings)


def test_bad_calls_are_named(models: WorldModels) -> None:
    """Bad actions and options must not reach the networks, where they would fail late and obscurely."""
    env = NeuralWorldEnv(models=models)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(WALK[0])
    with pytest.raises(ValueError, match="'seed'"):
        env.reset(options={"seed": 1})
    with pytest.raises(ValueError, match="-1"):
        env.reset(options={"world_seed": -1})
    env.reset(seed=0)
    for action, words in (([3, 0, 0], "3"), ([0, 0], "3 integers"), ([0.5, 0, 0], "3 integers")):
        with pytest.raises(ValueError, match=words):
            env.step(action)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    """The path is the environment's, not some folder of the machine that made the checkpoint."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        gymnasium.make("WorldSim/NeuralWorld-v0", checkpoint=tmp_path / "nowhere")


def test_worldsim_alone_imports_no_torch() -> None:
    """`worldsim record` and every help must not wait seconds for torch, nor need it."""
    code = "import sys, worldsim; print(sorted({'torch', 'gymnasium'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
