"""The whole recipe on recorded maze episodes: autoencoder, descriptor, odometer, model, and the world that comes out."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.codebook import report
from models.transformer import WorldTransformer
from retrieval.motion import Motion
from retrieval.odometer import Odometer
from worldsim.checkpoint import load_checkpoint, load_component, save_component
from worldsim.episode import list_episodes
from worldsim.presets import tiny
from worldsim.record import RecordSettings, record
from worldsim.training.autoencoder import AutoencoderTraining, train_autoencoder
from worldsim.training.components import start_weights
from worldsim.training.data import cached_latents, own_share, sample_frames
from worldsim.training.descriptor import DescriptorTraining, train_descriptor
from worldsim.training.loop import LoopSettings
from worldsim.training.model import train_model
from worldsim.training.model_training import ModelTraining
from worldsim.training.odometer import OdometerTraining, train_odometer
from worldsim.training.self_rollout import SelfRolloutSettings
from worldsim.world import World

ROOT = Path(__file__).resolve().parents[2]
LOOP = LoopSettings(steps=24, warmup_steps=4, log_steps=12, preview_steps=24)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    record(RecordSettings(out=folder, episodes=3, steps=119, workers=1))
    return folder


@pytest.fixture(scope="module")
def prepared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a trained autoencoder, descriptor and odometer."""
    run = tmp_path_factory.mktemp("run")
    loop = replace(LOOP, steps=48)
    train_autoencoder(
        AutoencoderTraining(
            data=data, out=run, preset="tiny", loop=loop, frames=120, batch=4, workers=1, device="cpu"
        )
    )
    train_descriptor(
        DescriptorTraining(
            data=data, out=run, preset="tiny", loop=LOOP, episodes=2, queries=4, workers=1, device="cpu"
        )
    )
    train_odometer(
        OdometerTraining(data=data, out=run, preset="tiny", loop=LOOP, batch=16, workers=1, device="cpu")
    )
    return run


def model_training(data: Path, out: Path) -> ModelTraining:
    return ModelTraining(
        data=data,
        out=out,
        preset="tiny",
        loop=LOOP,
        # After so few steps own histories explode where nothing holds them: all of them count.
        own_frames=SelfRolloutSettings(after_steps=6, length=6, known=0.0),
        batch=4,
        draws=2,
        validation_episodes=1,
        workers=1,
        device="cpu",
    )


@pytest.fixture(scope="module")
def trained(data: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    shutil.copytree(prepared, run)
    train_model(model_training(data, run))
    return run


def scalars(run: Path, name: str, tag: str) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard" / name))
    events.Reload()
    return [event.value for event in events.Scalars(tag)]


def test_what_comes_out_is_a_world(trained: Path, data: Path) -> None:
    """Four commands end in a checkpoint that loads and plays, openings and action space included."""
    models = load_checkpoint(trained / "checkpoint", "cpu", torch.float32)
    assert models.action_space.names == ("move", "turn", "strafe")
    assert models.openings.latents.shape == (2, 1, 4, 12, 16)
    assert models.trained["steps"] == 24
    assert models.trained["episodes"] == 3
    assert models.trained["preset"] == "tiny"
    world = World(models)
    assert world.reset(1).shape == (1, 96, 128, 3)
    for action in np.random.default_rng(0).integers(0, 3, (25, 1, 3)):
        section = world.step(action)
    assert section.recalled
    assert section.frames_u8.std() > 0


def test_trained_weights_are_the_average(trained: Path) -> None:
    """The checkpoint holds the averaged weights, in bfloat16, not the last step's."""
    state = load_file(trained / "state" / "model.safetensors")
    weights = load_file(trained / "checkpoint" / "transformer" / "diffusion_pytorch_model.safetensors")
    name = "blocks.0.qkv.weight"
    assert torch.equal(weights[name], state[f"average.{name}"].bfloat16())
    assert not torch.equal(weights[name], state[f"module.{name}"].bfloat16())


def test_losses_fall_and_are_logged(trained: Path) -> None:
    """Autoencoder: from grey mud upward; descriptor and model log what the documents speak of."""
    psnr = scalars(trained, "autoencoder", "psnr_db")
    assert len(psnr) == 4
    assert psnr[-1] > psnr[0] + 1
    assert len(scalars(trained, "descriptor", "coverage_at_4")) == 2
    assert scalars(trained, "model", "loss")[0] == pytest.approx(2, abs=0.3)
    assert len(scalars(trained, "model", "loss_own_history")) == 2


def test_latents_of_a_trained_autoencoder_are_normalised(trained: Path, data: Path) -> None:
    """The statistics are fitted after training, on the averaged encoder that ships."""
    models = load_checkpoint(trained / "checkpoint", "cpu", torch.float32)
    frames = sample_frames(list_episodes(data), 60, 1, torch.device("cpu"), show=False)
    latents = models.autoencoder.encode_frames(frames)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.15, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=0.15, rtol=0)


def test_preview_shows_truth_above_made(trained: Path) -> None:
    """The film strip is what a person judges a running training by."""
    from PIL import Image

    with Image.open(trained / "strips" / "step_000024.png") as strip:
        assert strip.size == (128 * 10, 96 * 2)  # 40 frames are left of 120, every fourth is shown


def test_the_command_resumes_exactly(trained: Path, prepared: Path, data: Path, tmp_path: Path) -> None:
    """The same three-stage folder, cut off after half of the model's steps: the same bytes at the end."""
    run = tmp_path / "run"
    shutil.copytree(prepared, run)
    settings = model_training(data, run)
    train_model(replace(settings, loop=replace(LOOP, max_minutes=1e-9)))
    half = json.loads((run / "checkpoint" / "world.json").read_text())
    assert half["trained"]["steps"] == 12
    train_model(settings)
    weights = "checkpoint/transformer/diffusion_pytorch_model.safetensors"
    assert (run / weights).read_bytes() == (trained / weights).read_bytes()
    openings = "checkpoint/openings.safetensors"
    assert (run / openings).read_bytes() == (trained / openings).read_bytes()


def test_warm_start_takes_the_weights(trained: Path, prepared: Path, data: Path, tmp_path: Path) -> None:
    """`--warm-start`: with no learning rate the weights come out as they went in; another preset is refused."""
    run = tmp_path / "run"
    shutil.copytree(prepared, run)
    start = trained / "checkpoint"
    still = replace(
        model_training(data, run), warm_start=start, learning_rate=0.0, loop=replace(LOOP, steps=12)
    )
    train_model(still)
    before, after = (
        load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
        for folder in (start, run / "checkpoint")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    large = AutoencoderTraining(data=data, out=tmp_path / "other", warm_start=start, workers=1, device="cpu")
    with pytest.raises(
        ValueError, match="autoencoder does not fit the preset: other names or shapes; leave --warm-start out"
    ):
        train_autoencoder(large)


def test_a_frozen_encoder_keeps_its_latents(trained: Path, data: Path, tmp_path: Path) -> None:
    """The world model of the warm start must understand the new decoder's latents; the decoder itself learns."""
    start = trained / "checkpoint"
    settings = AutoencoderTraining(
        data=data, out=tmp_path / "run", warm_start=start, freeze_encoder=True, preset="tiny", frames=60,
        batch=4, workers=1, device="cpu", loop=LoopSettings(steps=4, log_steps=4),
    )  # fmt: skip
    train_autoencoder(settings)
    before, after = (
        load_component(folder, "autoencoder") for folder in (start, tmp_path / "run" / "checkpoint")
    )
    frames = sample_frames(list_episodes(data), 6, 1, torch.device("cpu"), show=False)
    assert torch.equal(before.encode_frames(frames), after.encode_frames(frames))
    assert not torch.equal(*(part.tiny.decoder.layers[-1].weight for part in (before, after)))
    with pytest.raises(ValueError, match="keeps random latents; give --warm-start"):
        replace(settings, warm_start=None)


def test_a_part_that_the_start_lacks_starts_anew(tmp_path: Path) -> None:
    """A refiner can be added to a trained transformer, and changes nothing before it has learned."""
    whole = WorldTransformer.of(tiny().transformer)
    save_component(
        WorldTransformer.of(replace(tiny().transformer, refiner_channels=0)), tmp_path, "transformer"
    )
    start_weights(whole, "transformer", tmp_path)
    old = load_component(tmp_path, "transformer").state_dict()
    assert all(torch.equal(old[name], tensor) for name, tensor in whole.state_dict().items() if name in old)
    assert not whole.refiner.leave.weight.any()
    save_component(whole, tmp_path, "transformer")
    bare = WorldTransformer.of(replace(tiny().transformer, refiner_channels=0))
    with pytest.raises(ValueError, match=r"does not fit the preset: refiner\..* has no place in the model"):
        start_weights(bare, "transformer", tmp_path)


def test_an_odometer_can_learn_foresight_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped one was trained before there was any: nothing else of it may change; the other way there is no place."""
    motion = Motion.still((3, 3, 3))
    old, new = (Odometer.of(replace(tiny().odometer, witness_channels=n), motion) for n in (0, 8))
    save_component(old, tmp_path, "odometer")
    begun = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    start_weights(new, "odometer", tmp_path)
    assert "has no foresight; that starts anew" in capsys.readouterr().out
    trained = load_component(tmp_path, "odometer").state_dict()
    for name, tensor in new.state_dict().items():
        assert torch.equal(tensor, begun[name] if name.startswith("foresight.") else trained[name]), name
    save_component(new, tmp_path, "odometer")
    with pytest.raises(ValueError, match="does not fit the preset: other names or shapes"):
        start_weights(old, "odometer", tmp_path)


def test_stages_in_the_wrong_order_name_the_missing_one(data: Path, prepared: Path, tmp_path: Path) -> None:
    """Each stage needs the ones before; the line must be the command to run."""
    with pytest.raises(FileNotFoundError, match=f"run worldsim train autoencoder --out {tmp_path}"):
        train_descriptor(DescriptorTraining(data=data, out=tmp_path, preset="tiny", device="cpu"))
    shutil.copytree(prepared / "checkpoint" / "autoencoder", tmp_path / "checkpoint" / "autoencoder")
    with pytest.raises(FileNotFoundError, match=f"run worldsim train descriptor --out {tmp_path}"):
        train_model(model_training(data, tmp_path))
    uneven = replace(model_training(data, tmp_path), loop=replace(LOOP, log_steps=10))
    with pytest.raises(ValueError, match="log steps 10 are not a multiple of the 6 own steps"):
        train_model(uneven)


def test_too_few_episodes_are_named(data: Path, prepared: Path, tmp_path: Path) -> None:
    """Validation must not swallow all episodes; every process needs one."""
    run = tmp_path / "run"
    shutil.copytree(prepared, run)
    with pytest.raises(ValueError, match="3 episodes cannot spare 3 for validation; record more"):
        train_model(replace(model_training(data, run), validation_episodes=3))
    with pytest.raises(ValueError, match="3 episodes for 4 processes; record at least one a process"):
        own_share(list_episodes(data), 0, 4)
    paths = list_episodes(data)
    assert own_share(paths, 0, 2) + own_share(paths, 1, 2) == [paths[0], paths[2], paths[1]]


def test_latent_cache_is_used_while_it_fits(trained: Path, data: Path, tmp_path: Path) -> None:
    """Stale latents of an older autoencoder or of other episodes would train a model that decodes to noise."""
    models = load_checkpoint(trained / "checkpoint", "cpu", torch.float32)
    paths, cache = list_episodes(data), tmp_path / "latents.safetensors"

    def read(chosen: list[Path]) -> torch.Tensor:
        return cached_latents(chosen, models.autoencoder, cache, 1, show=False).latents

    first = read(paths[:2])
    stamp = cache.stat().st_mtime_ns
    assert torch.equal(read(paths[:2]), first)
    assert cache.stat().st_mtime_ns == stamp
    assert read(paths[:1]).shape[0] == 1
    assert cache.stat().st_mtime_ns != stamp
    models.autoencoder.latent_mean += 1
    moved = read(paths[:1])
    assert not torch.allclose(moved, first[:1], atol=0.1)
    cache.write_bytes(cache.read_bytes()[:1000])
    assert torch.equal(read(paths[:1]), moved)


@pytest.mark.slow
def test_torchrun_runs_all_four_commands(data: Path, tmp_path: Path) -> None:
    """As the documents tell it: two processes, every stage, one checkpoint."""
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "worldsim.cli",
        "train",
    ]
    common = f"--data {data} --out {tmp_path} --preset tiny --device cpu --workers 1 --loop.steps 12 --loop.log-steps 12"
    stages = (
        "autoencoder --frames 60 --batch 2",
        "descriptor --episodes 1 --queries 2",
        "odometer --batch 8",
        "model --batch 4 --draws 1 --validation-episodes 0 --own-frames.length 6 --own-frames.after-steps 6",
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    for stage in stages:
        done = subprocess.run(
            [sys.executable, *words, *stage.split(), *common.split()],
            text=True, capture_output=True, timeout=100, cwd=ROOT, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    models = load_checkpoint(tmp_path / "checkpoint", "cpu", torch.float32)
    assert models.trained["processes"] == 2
    assert models.trained["batch"] == 8
    world = World(models)
    world.reset(0)
    world.step(np.zeros((1, 3), np.int64))


def test_another_schedule_with_codes_trains_and_plays(prepared: Path, data: Path, tmp_path: Path) -> None:
    """`--schedule …+D`: the codes are fitted to the run's own latents and travel in the checkpoint."""
    run = tmp_path / "run"
    shutil.copytree(prepared, run)
    settings = replace(
        model_training(data, run),
        schedule="f1k1_tc_f4k2f1k1_r2k1_g1+D",
        codes=12,
        loop=replace(LOOP, steps=12),
    )
    train_model(settings)
    models = load_checkpoint(run / "checkpoint", "cpu", torch.float32)
    assert models.schedule.text == settings.schedule
    codebook = models.transformer.codebook
    found = report(codebook, cached(run, data))
    assert found.variance_kept > 0.3
    assert found.dead_codes < 3
    world = World(models)
    world.reset(0)
    assert world.step(np.zeros((1, 3), np.int64)).frames_u8.std() > 0


def cached(run: Path, data: Path) -> torch.Tensor:
    """Latents of some recorded frames."""
    models = load_checkpoint(run / "checkpoint", "cpu", torch.float32)
    return models.autoencoder.encode_frames(
        sample_frames(list_episodes(data), 60, 1, torch.device("cpu"), show=False)
    )


def test_schedules_of_other_sections_are_refused(prepared: Path, data: Path) -> None:
    """The descriptor reads a fixed number of coming actions."""
    settings = replace(model_training(data, prepared), schedule="td_f2k1_r1k1_g3")
    with pytest.raises(ValueError, match="makes 3 frames at once"):
        _ = settings.sizes
